"""Verbs about what a run writes: plan, gc."""

from pathlib import Path
from typing import Annotated, Any

import typer

from difftrack.cli._app import PARAMS, check_made, read_extraction, read_yaml_file, verb


@verb
def plan(
    params: Annotated[Path, typer.Option(help="What to run.")] = PARAMS,
    backbone: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    view: Annotated[list[str] | None, typer.Option(help="analysis or tracking only.")] = None,
    probe: Annotated[bool, typer.Option(help="Load the weights and time one step, too.")] = False,
    study: Annotated[Path | None, typer.Option(help="Instead: a study on paper, such as examples/study.yaml.")] = None,
) -> None:
    """Say what `extract` writes and whether it fits (else exit status 1), and what every stage takes."""
    if study is not None:
        from difftrack.params import parse
        from difftrack.planning import Study, study_table

        typer.echo(study_table(parse(Study, read_yaml_file(study), "study", file=study)))
        return
    values = read_extraction(params)

    from difftrack.estimates import plan_stages, stage_lines  # takes seconds, so the file is checked before
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
    """Plan the stages alone, for as many clips as params ask for."""
    from difftrack.estimates import plan_stages, stage_lines

    if not {"synthesize", "annotate"} <= values.keys():
        check_made(clips)
    try:
        lines = stage_lines(plan_stages(values, root=root, commands=_commands(root, values)))
    except ValueError:
        check_made(clips)  # says what to run first
        raise
    typer.echo(f"{clips} is not there yet; stores are planned once it is")
    typer.echo("\n".join(lines))


def _commands(root: Path, values: dict[str, Any]) -> list[str]:
    """Commands of the preset whose folder this is; none where it is not a preset's."""
    from difftrack.presets import commands, preset_of, read_preset

    name = preset_of(root)
    return [] if name is None else list(commands(read_preset(name), values))


@verb
def gc(
    params: Annotated[list[Path] | None, typer.Option(help="Keep what this needs; may be repeated.")] = None,
    delete: Annotated[bool, typer.Option(help="Do it; without, only say what would go.")] = False,
) -> None:
    """Remove what no params file needs: descriptors of other params, clips and backbones, results, all that is kept.

    Of sweeps, runs that no sweep would take up again go; their tables stay.
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
    )  # takes seconds, so files are checked before

    # All are named before the first one goes.
    leftovers: list[Leftover | LeftoverCell] = [*find_leftovers(files), *leftover_cells(files, top=Path())]
    for leftover in leftovers:
        typer.echo(f"{leftover.num_bytes / 1e6:10.1f} MB  {leftover.root}/{leftover.group}  {leftover.why}")
        num_bytes += leftover.num_bytes
    for clip, why in uncertain_clips(files).items():
        typer.echo(f"      kept  descriptors of {clip}, which cannot be read for now: {why}")
    if delete:
        for leftover in leftovers:
            leftover.remove()
    if not leftovers:
        typer.echo("nothing to remove: all that is there is needed")
        return
    typer.echo(f"{num_bytes / 1e6:10.1f} MB  {'removed' if delete else 'would go; repeat with --delete to remove it'}")


def _tell_assumption(clips: Path) -> None:
    """Say on stderr what is assumed of a folder of clips without manifest."""
    from difftrack.datasets import read_manifest

    for remark in read_manifest(clips).remarks(clips):
        typer.echo(remark, err=True)
