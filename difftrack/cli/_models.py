"""The verb models."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer

from difftrack.cli._app import verb


@verb
def models(
    name: Annotated[str | None, typer.Argument(help="Only this backbone.")] = None,
    words: Annotated[
        bool, typer.Option("--words", help="List the words that it knows, if its vocabulary is closed.")
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(
            help="Check the capture of this backbone here: a name, built small with random weights, or path:DIR."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Device for --check: cpu, cuda, or auto.")] = "auto",
    memory: Annotated[bool, typer.Option(help="List what each needs on cards with 24, 48 and 80 GB.")] = False,
) -> None:
    """List the named backbones: counts, tokens and sizes, and whether their weights are on this machine."""
    if check is not None:
        _check_model(check, device)
        return
    if memory:
        _show_memory((24, 48, 80))
        return
    if words:
        _show_words(name)
        return
    from difftrack.backbones import SHIPPED, canonical_name, summaries

    if name == SHIPPED:
        _show_shipped()
        return
    if name is not None:
        canonical_name(name)  # refuses unknown names

    row = "{:<21}{:<12}{:<13}{:<14}{:>9}{:>10}  {:<5}{:<50}{}"
    heads = ("name", "layers x", "clip", "tokens", "q + k of", "weights,", "here", "checkpoint", "also called")
    units = ("", "heads x ch", "", "f x row x col", "1 layer", "bf16", "", "", "")
    for cells in (heads, units):
        typer.echo(row.format(*cells).rstrip())
    for model in summaries(None if name is None else [name]):
        frames, height, width = model.size
        cells = (
            model.name,
            f"{model.num_layers}x{model.num_heads}x{model.num_channels}",
            f"{frames}x{height}x{width}",
            f"{model.grid.num_latent_frames}x{model.grid.rows}x{model.grid.cols}",
            f"{model.query_key_bytes / 1e6:.0f} MB",
            f"{model.transformer_bytes / 1e9:.1f} GB",
            "yes" if model.cached else "no",
            model.checkpoint,
            model.alias or "",
        )
        typer.echo(row.format(*cells).rstrip())
    typer.echo(f"{SHIPPED} comes with the package; path:DIR is any pipeline folder of these families")


def _show_words(name: str | None) -> None:
    """Print the words of a backbone, wrapped to the width of the terminal."""
    import textwrap

    from difftrack.backbones import SHIPPED, canonical_name, known_words

    chosen = SHIPPED if name is None else name
    known = known_words(chosen)
    if known is None:
        raise ValueError(f"{canonical_name(chosen)} has an open vocabulary; any prompt is possible")
    typer.echo("\n".join(textwrap.wrap(" ".join(known), width=100)))


def _show_shipped() -> None:
    """Print the counts of the shipped backbone, which is not in the table of published ones."""
    from difftrack.backbones import SHIPPED, shipped_backbone
    from difftrack.documents import read_json

    config = read_json(shipped_backbone() / "transformer" / "config.json")
    counts = (config[key] for key in ("num_layers", "num_attention_heads", "attention_head_dim"))
    typer.echo(
        "{} comes with the package: {} layers x {} heads x {} channels; `difftrack models {} --words` lists the words "
        "that it knows".format(SHIPPED, *counts, SHIPPED)
    )


def _check_model(name: str, device: str) -> None:
    from difftrack.backbones import ALIASES, KNOWN, SHIPPED, ModelParams, canonical_name

    if name != SHIPPED and not name.startswith("path:"):
        canonical_name(name)  # refuses unknown names before the import of torch

    from difftrack.backbones import check_capture

    params, built = ModelParams(device=device), ALIASES.get(name, name) in KNOWN
    on_gpu = params.torch_device().type == "cuda"
    checks = check_capture(name, dataclasses.replace(params, dtype="bfloat16" if on_gpu else "float32"))
    how = "few layers and heads, random weights" if built else "as it is"
    typer.echo(f"{name}, {how}, on {params.torch_device()}")
    failed = 0
    for check in checks:
        typer.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.law}: {check.found}")
        failed += not check.passed
    if failed:
        raise typer.Exit(1)


def _show_memory(cards_gb: Sequence[int]) -> None:
    """Print a table in Markdown."""
    from difftrack.backbones import memory_needs

    heads = "text | transformer | others | activations | encode | frames | decode"
    typer.echo(f"| | {heads} | {' | '.join(f'{card} GB' for card in cards_gb)} |")
    typer.echo("| --- " * (8 + len(cards_gb)) + "|")
    for need in memory_needs():
        parts = (need.text_bytes, need.transformer_bytes, need.other_bytes, need.activation_bytes)
        cells = [f"{num_bytes / 1e9:.1f}" for num_bytes in (*parts, *need.working_bytes.values())]
        for card in cards_gb:
            switches = need.switches_for(card * 10**9)
            named = "no" if switches is None else " + ".join(switches) or "as it is"
            cells.append(named if switches is None else f"{named}: {need.needed(switches) / 1e9:.0f}")
        typer.echo(f"| `{need.name}` | {' | '.join(cells)} |")
