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
    test: Annotated[bool, typer.Option(help="Run the ten-second self-test on the shipped backbone.")] = True,
    device: Annotated[str, typer.Option(help="Device of the self-test: cpu, cuda, cuda:1, or auto.")] = "auto",
) -> None:
    """Report versions, device, weights, caches and optional parts, and run a self-test."""
    from difftrack.doctor import examine

    report = examine(device=device, test=test)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report.text())
    if not report.passed:
        raise typer.Exit(1)
