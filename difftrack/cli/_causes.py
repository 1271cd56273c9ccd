"""The verb ablate."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difftrack.cli._app import verb, watched

if TYPE_CHECKING:
    from difftrack.backbones import Backbone
    from difftrack.workflows.ablate import Ablation


@verb
def ablate(
    prompts: Annotated[Path, typer.Argument(help="Prompt file, one prompt per line.")],
    do: Annotated[
        list[str] | None,
        typer.Option(
            help="zero, mean[:clip|frame|time], scale:FACTOR, freeze:STEP, own_frame[:zeroed|masked], identity or "
            "skip; may be repeated. Default: zero, unless --guide is given."
        ),
    ] = None,
    each: Annotated[str, typer.Option(help="head or layer: the unit of each intervention.")] = "head",
    layers: Annotated[str, typer.Option(help="Layers: all, or a list such as 0,4-7.")] = "all",
    heads: Annotated[str, typer.Option(help="Heads: all, or a list such as 0,2.")] = "all",
    steps: Annotated[
        str, typer.Option(help="Sampling steps to act in: all, or a list such as 0-9; 0 is the noisiest.")
    ] = "all",
    branches: Annotated[str, typer.Option(help="Branches of guidance: all, cond or uncond.")] = "all",
    guide: Annotated[
        list[str] | None,
        typer.Option(help="Guidance to compare, VARIANT:SCALE:LAYERS, such as skip:0.2:4,6; may be repeated."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 42-45; every prompt is sampled with each.")] = "42,43",
    sampling_steps: Annotated[int, typer.Option(help="Denoising steps of a sample.")] = 50,
    cfg_scale: Annotated[float, typer.Option(help="Scale of classifier-free guidance.")] = 6.0,
    size: Annotated[
        str | None, typer.Option(help="FRAMESxHxW; default: the size that the backbone was trained on.")
    ] = None,
    clips: Annotated[
        int, typer.Option(help="Number of rendered clips for the matching accuracy of the other layers.")
    ] = 4,
    judged_steps: Annotated[
        str,
        typer.Option(help="Steps of 50 whose noise levels judge how samples follow their prompts; none skips this."),
    ] = "10",
    backbone: Annotated[str, typer.Option(help="Backbone: a name, or path:DIR.")] = "cogvideox-mini",
    device: Annotated[str, typer.Option(help="Device: cpu, cuda or auto.")] = "auto",
    out: Annotated[Path, typer.Option(help="Output folder: one file per cell, tables and the figure.")] = Path(
        "ablation"
    ),
    reuse: Annotated[str, typer.Option(help="exact, or params to also reuse cells of older code.")] = "exact",
    plan: Annotated[bool, typer.Option("--plan", help="Print the work to do and its cost, and exit.")] = False,
) -> None:
    """Remove or change heads and layers one at a time, and measure the effect on samples: table, intervals, figure.

    Finished cells are kept: an interrupted run resumes, and a larger grid computes only new cells.
    """
    from difftrack.params import parse
    from difftrack.prompts import read_prompts

    texts = read_prompts(prompts)
    words = tuple(do or (() if guide else ("zero",)))

    from difftrack.backbones import (
        ModelParams,
        load_backbone,
    )  # the import takes seconds, so cheap checks come before it
    from difftrack.workflows.ablate import AblateParams, ablate, plan_ablation
    from difftrack.workflows.ablation_summary import summarize

    model = load_backbone(backbone, ModelParams(device=device))
    num_frames, height, width = _sides(size) if size else model.made_for or _no_size(model.name)
    choices: dict[str, Any] = {
        "interventions": list(words),
        "each": each,
        "layers": _indices(layers),
        "heads": _indices(heads),
        "steps": _indices(steps),
        "branches": branches if branches == "all" else [branches],
        "guidances": [_guidance(text) for text in guide or ()],
        "seeds": _indices(seeds),
        "num_inference_steps": sampling_steps,
        "cfg_scale": cfg_scale,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "judged_steps": [] if judged_steps == "none" else _indices(judged_steps),
        "matching_clips": clips,
        "reuse": reuse,
    }
    params = parse(AblateParams, choices, "ablate")
    planned = plan_ablation(model, texts, params, out)
    typer.echo(_said(planned))
    if plan:
        typer.echo(_cost(model, planned, (num_frames, height, width)))
        return
    for cell in watched(ablate(model, texts, params, out), "ablate", len(planned.waiting)):
        typer.echo(cell.file)
    from difftrack.reports import cause_table, draw_causes

    summary = summarize(model, texts, params, out)
    for line in cause_table(summary):
        typer.echo(line)
    for file in (out / "ablation.json", out / "ablation.csv", *draw_causes(summary, out)):
        typer.echo(file)


def _said(planned: "Ablation") -> str:
    waiting = planned.waiting
    ways = len({cell.way.name for cell in planned.cells})
    return (
        f"{ways} ways, {len(planned.cells)} cells: {len(waiting)} to do, {len(planned.cells) - len(waiting)} done "
        f"before; {sum(cell.num_forwards for cell in waiting):.0f} forwards of one branch"
    )


def _cost(model: "Backbone", planned: "Ablation", size: tuple[int, int, int]) -> str:
    """Time one forward, without the decoding and measuring of samples."""
    grid = model.token_grid(*size)
    patch, fold = model.patch_size, model.latents_per_token_frame
    latents = model.placeholder_latents(grid.num_latent_frames * fold, grid.rows * patch, grid.cols * patch)
    schedule, prompt = model.schedule(10, grid=grid), model.placeholder_prompt()
    conditioning = model.placeholder_conditioning(latents)
    seconds = 0.0
    for _ in range(2):  # the first forward loads the weights
        started = time.perf_counter()
        float(model.predict(latents, schedule.timesteps[5], prompt, conditioning=conditioning).sum())
        seconds = time.perf_counter() - started
    forwards = sum(cell.num_forwards for cell in planned.waiting)
    samples = sum(cell.prompt is not None for cell in planned.waiting)
    return (
        f"a forward takes {seconds:.2f} s here: {forwards * seconds / 60:.1f} minutes, plus decoding, flow and "
        f"encoding of {samples} samples"
    )


def _indices(text: str) -> Any:  # noqa: ANN401 - "all", or indices
    """Parse "all" or "0,4-7"."""
    if text == "all":
        return text
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of indices; expected all, or such as 0,4-7") from error
    return found


def _guidance(text: str) -> tuple[str, float, tuple[int, ...]]:
    """Parse "VARIANT:SCALE:LAYERS"."""
    try:
        variant, scale, layers = text.split(":")
        return variant, float(scale), tuple(_indices(layers))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a guidance; expected VARIANT:SCALE:LAYERS, such as skip:0.2:4,6"
        ) from error


def _sides(text: str) -> tuple[int, int, int]:
    """Parse "FRAMESxHxW"."""
    try:
        num_frames, height, width = (int(side) for side in text.split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a size; expected FRAMESxHxW, such as 17x128x192") from error
    return num_frames, height, width


def _no_size(name: str) -> tuple[int, int, int]:
    raise ValueError(f"the size of the clips that {name} was trained on is not known; set --size FRAMESxHxW")
