"""Verbs about the data of runs: plan, gc."""

from pathlib import Path
from typing import Annotated, Any

import typer

from difftrack.cli._app import PARAMS, check_made, read_extraction, read_yaml_file, verb


@verb
def plan(
    params: Annotated[Path, typer.Option(help="Params file.")] = PARAMS,
    backbone: Annotated[list[str] | None, typer.Option(help="Only this backbone; may be repeated.")] = None,
    view: Annotated[list[str] | None, typer.Option(help="Only this view: analysis or tracking.")] = None,
    probe: Annotated[bool, typer.Option(help="Also load the weights and time one step.")] = False,
    study: Annotated[
        Path | None, typer.Option(help="Plan a study from this file instead, such as examples/study.yaml.")
    ] = None,
) -> None:
    """Estimate what `extract` writes, whether it fits (else exit status 1), and the cost of every stage."""
    if study is not None:
        from difftrack.params import parse
        from difftrack.planning import Study, study_table

        typer.echo(study_table(parse(Study, read_yaml_file(study), "study", file=study)))
        return
    values = read_extraction(params)

    from difftrack.estimates import (
        plan_stages,
        stage_lines,
    )  # the import takes seconds, so the file is checked before it
    from difftrack.planning import plan_params

    if unknown := sorted(set(backbone or ()) - set(values["backbones"])):
        raise ValueError(f"{params}: no backbones.{unknown[0]}; there are {', '.join(values['backbones'])}")
    root, clips = params.resolve().parent, Path(values["paths"]["clips"])
    if not clips.exists():
        _plan_before_clips(values, root, clips)
        return
    _tell_assumption(clips)
    views, failed = tuple(view or ("analysis", "tracking")), False
    for planned, problems in plan_params(values, backbones=backbone or (), views=views, with_probe=probe):
        typer.echo("\n".join(planned.lines()))
        for clip, problem in problems.items():
            typer.echo(f"  without {clip}: {problem}")
        planned.check()
        failed |= bool(problems)
    if {"synthesize", "annotate"} <= values.keys():
        typer.echo("\n".join(stage_lines(plan_stages(values, root=root, commands=_commands(root, values)))))
    if failed:
        raise typer.Exit(1)


def _plan_before_clips(values: dict[str, Any], root: Path, clips: Path) -> None:
    """Plan only the stages, for the number of clips in the params."""
    from difftrack.estimates import plan_stages, stage_lines

    if not {"synthesize", "annotate"} <= values.keys():
        check_made(clips)
    try:
        lines = stage_lines(plan_stages(values, root=root, commands=_commands(root, values)))
    except ValueError:
        check_made(clips)  # its message says what to run first
        raise
    typer.echo(f"{clips} does not exist yet; stores can be planned when it does")
    typer.echo("\n".join(lines))


def _commands(root: Path, values: dict[str, Any]) -> list[str]:
    """Return the commands of the preset that owns this folder; empty if there is none."""
    from difftrack.presets import commands, preset_of, read_preset

    name = preset_of(root)
    return [] if name is None else list(commands(read_preset(name), values))


@verb
def gc(
    params: Annotated[
        list[Path] | None, typer.Option(help="Keep everything that this params file needs; may be repeated.")
    ] = None,
    delete: Annotated[bool, typer.Option(help="Delete; without this flag only print what would be deleted.")] = False,
) -> None:
    """Remove data that no params file needs: descriptors and results of other params, kept ones included.

    Runs that no sweep would reuse are removed; the tables of sweeps stay.
    """
    num_bytes = 0
    files = [read_extraction(file) for file in params or [PARAMS]]
    for values in files:
        check_made(Path(values["paths"]["clips"]))

    from difftrack.pipeline._sweep_leftovers import LeftoverCell, leftover_cells
    from difftrack.planning import (
        Leftover,
        find_leftovers,
        uncertain_clips,
    )  # the import takes seconds, so files are checked before it

    # List everything before the first removal.
    leftovers: list[Leftover | LeftoverCell] = [*find_leftovers(files), *leftover_cells(files, top=Path())]
    for leftover in leftovers:
        typer.echo(f"{leftover.num_bytes / 1e6:10.1f} MB  {leftover.root}/{leftover.group}  {leftover.why}")
        num_bytes += leftover.num_bytes
    for clip, why in uncertain_clips(files).items():
        typer.echo(f"       kept descriptors of {clip}, which cannot be read now: {why}")
    if delete:
        for leftover in leftovers:
            leftover.remove()
    if not leftovers:
        typer.echo("nothing to remove: all data is needed")
        return
    typer.echo(
        f"{num_bytes / 1e6:10.1f} MB  {'removed' if delete else 'would be removed; repeat with --delete to remove it'}"
    )


def _tell_assumption(clips: Path) -> None:
    """Report on stderr the assumptions about a folder of clips without a manifest."""
    from difftrack.datasets import read_manifest

    for remark in read_manifest(clips).remarks(clips):
        typer.echo(remark, err=True)
