"""The verb sweep."""

from pathlib import Path
from typing import Annotated

import typer

from difftrack.cli._app import PARAMS, read_sections, verb


@verb
def sweep(
    grid: Annotated[
        list[str],
        typer.Argument(
            help="section.key=value,value of match, score or track, the values in YAML; several make a grid."
        ),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            help="Stages whose results to show: score, track or score,track; default: those that the keys change."
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help="Backbone of params.yaml; may be repeated; default: all.")
    ] = None,
    workers: Annotated[str, typer.Option(help="Number of parallel processes, or auto.")] = "1",
    scheduler: Annotated[str | None, typer.Option(help="dask, or the address of a running Dask scheduler.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep; default: its keys.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of all sweeps; default: paths.sweeps.")] = None,
    params: Annotated[Path, typer.Option(help="Params file that the values override; it is not changed.")] = PARAMS,
) -> None:
    """Run score or track at every point of a grid of params, on stored descriptors: a table, a CSV, a plot.

    No video model runs. Results are kept by their params, code and inputs, and shared between sweeps.
    """
    from difftrack.sweeps import read_axes, show_value, stages_of

    axes = read_axes(grid)
    stages = stages_of(axes, on)
    if workers != "auto" and not (workers.isdecimal() and int(workers) > 0):
        raise typer.BadParameter(f"--workers {workers}: expected a number of processes, or auto")
    values = read_sections(params, "paths", "backbones")

    from difftrack.pipeline._sweep import SweepCell, measured, plan_sweep, run_sweep, write_sweep

    planned = plan_sweep(
        values, axes, stages, top=params.resolve().parent, file=params, backbones=backbone or (), folder=out, name=name
    )
    changes = {keys[stage]: point for _, point, keys, _ in reversed(planned.rows) for stage in keys}
    waiting = planned.waiting
    kept = len(planned.cells.keys() - {cell.key for cell in waiting})
    typer.echo(f"{len(planned.rows)} points: {len(waiting)} runs of a stage to do, {kept} done before", err=True)

    def say(cell: SweepCell, count: int, of: int) -> None:
        at = ", ".join(f"{key}={show_value(value)}" for key, value in changes.get(cell.key, {}).items())
        typer.echo(f"{count} of {of}: {cell.stage} {cell.backbone} {at}".rstrip(), err=True)

    failures = run_sweep(planned, workers="auto" if workers == "auto" else int(workers), scheduler=scheduler, say=say)
    from difftrack.reports import sweep_table

    files = write_sweep(planned)
    for line in sweep_table(measured(planned)):
        typer.echo(line)
    for file in files:
        typer.echo(file)
    if failures:
        key, why = next(iter(failures.items()))
        raise ValueError(f"{len(failures)} of {len(waiting)} runs failed; the first, {key}: {why}")
