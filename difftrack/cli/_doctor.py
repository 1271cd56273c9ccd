"""The verb doctor."""

import json
from typing import Annotated

import typer

from difftrack.cli._app import verb


@verb
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, for an issue or a script.")
    ] = False,
    test: Annotated[bool, typer.Option(help="Run the self-test of ten seconds on the shipped backbone.")] = True,
    device: Annotated[str, typer.Option(help="For the self-test: cpu, cuda, cuda:1, or auto.")] = "auto",
) -> None:
    """Say what is here and whether it works: versions, device, weights, caches, optional parts, and a self-test."""
    from difftrack.doctor import examine

    report = examine(device=device, test=test)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report.text())
    if not report.passed:
        raise typer.Exit(1)
