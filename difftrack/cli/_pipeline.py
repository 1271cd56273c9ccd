"""Verbs of the pipeline: init, params, preset, repro."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from difftrack.cli._app import PARAMS, app, one_line_errors, read_sections, verb
from difftrack.cli._dvc import advice, check_lock_files, has_remote, without_hints


@verb
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the workspace, created if missing.")],
) -> None:
    """Create a workspace with params.yaml, dvc.yaml and prompts, to run the pipeline with the installed package."""
    from difftrack.pipeline._workspace import init_workspace

    for written in init_workspace(folder):
        typer.echo(written)
    typer.echo(f"next: cd {folder} && difftrack repro")


@verb
def params(
    key: Annotated[
        str | None, typer.Argument(help="Section or key, such as track or track.heads; all by default.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of params.yaml instead.")] = False,
) -> None:
    """Explain the keys of params.yaml: allowed values, defaults and meaning."""
    from difftrack.configuration import describe, json_schema

    if schema and key is not None:
        raise typer.BadParameter("--schema covers all keys; give no key")
    typer.echo(json_schema().rstrip() if schema else describe(key or ""))


@verb
def preset(
    name: Annotated[str | None, typer.Argument(help="Name of the preset; without one, all are listed.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only print what would run, and compare existing results.")] = False,
    plan: Annotated[bool, typer.Option(help="Only print the cost of each stage, on a measured card.")] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value over the preset's params; may be repeated.")
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Use only this many prompts or clips.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of the preset; default: data/presets/NAME.")] = None,
    params: Annotated[Path, typer.Option(help="Params file that the preset overrides; it is not changed.")] = PARAMS,
) -> None:
    """Run the equivalent of a released script in its own folder, and print our numbers next to the paper's."""
    from difftrack.configuration import configuration_from
    from difftrack.presets import (
        apply_preset,
        commands,
        compare_with_published,
        missing_inputs,
        open_workspace,
        preset_names,
        read_overrides,
        read_preset,
    )

    if name is None:
        if first is not None or change or work:
            raise typer.BadParameter("--first, --set and --work need the name of a preset")
        for each in preset_names():
            typer.echo(f"{each:<33}{read_preset(each).about}")
        return
    chosen, top = read_preset(name), params.resolve().parent
    values = apply_preset(chosen, read_sections(params, "paths"), read_overrides(change or ()))
    configuration_from(values, file=f"preset {name} over {params}")
    folder = work or top / "data" / "presets" / name
    problems = missing_inputs(chosen, values, top)
    if plan:
        _plan_preset(chosen, values, top, first)
        return
    if dry_run:
        _describe_preset(chosen, values, folder, problems)
    elif problems:
        raise ValueError("; ".join(problems))
    else:
        values = open_workspace(folder, top, chosen, values, first=first, name=name)
        for command in commands(chosen, values):
            _run_in(folder, command)
    for comparison in compare_with_published(chosen, values, folder):
        typer.echo(comparison)


def _plan_preset(chosen: Any, values: dict[str, Any], top: Path, first: int | None) -> None:  # noqa: ANN401
    """Estimate the cost of a preset's stages from scratch, ignoring existing results."""
    import tempfile

    from difftrack.estimates import plan_stages, stage_lines
    from difftrack.presets import commands, narrowed_params

    with tempfile.TemporaryDirectory() as empty:
        fewer = values if first is None else narrowed_params(Path(empty), top, chosen, values, first)
        for section, key in (("generated", "indices"), ("", "prompts")):  # printed next to the following paths
            own = fewer["synthesize"].get(section) if section else fewer.get("guide")
            if own and own.get(key) and (Path(empty) / own[key]).is_file():
                own[key] = str(Path(empty) / own[key])
        paths = {kind: str(Path(empty) / kind) for kind in fewer["paths"]}
        costs = plan_stages({**fewer, "paths": paths}, root=top, commands=list(commands(chosen, fewer)))
    typer.echo("\n".join(stage_lines(costs)))


def _describe_preset(chosen: Any, values: dict[str, Any], folder: Path, problems: Sequence[str]) -> None:  # noqa: ANN401
    """Print what a preset would do."""
    import yaml

    from difftrack.presets import commands

    typer.echo(f"{chosen.about}\nreleased: {chosen.script}")
    for departure in chosen.departs:
        typer.echo(f"departs: {departure}")
    typer.echo(yaml.safe_dump({section: values[section] for section in chosen.params}, sort_keys=False).rstrip())
    for command in commands(chosen, values):
        typer.echo(f"in {folder}: {command}")
    for problem in [*problems, *_missing_weights(values)]:
        typer.echo(f"missing: {problem}")


def _missing_weights(values: dict[str, Any]) -> list[str]:
    """List weights that a preset's backbones need but that are not on this machine, one per line."""
    from difftrack.backbones import missing_weights

    backbones = values.get("backbones") or {}
    return [problem for name, entry in backbones.items() if (problem := missing_weights(name, entry))]


def _run_in(folder: Path, command: str) -> None:
    """Run one command of the pipeline in a workspace; exit with its status if it fails."""
    programs = {"dvc": [sys.executable, "-m", "dvc"], "python": [sys.executable]}
    environment = _environment()
    if not (folder / ".dvc").is_dir():
        subprocess.check_call([*programs["dvc"], "init", "--no-scm", "--quiet"], cwd=folder, env=environment)
    program, *arguments = shlex.split(command)
    typer.echo(f"$ {command}")
    if status := _call([*programs[program], *arguments], cwd=folder, env=environment):
        raise typer.Exit(status)


def _environment() -> dict[str, str]:
    """Return this process's environment, with `python` as the current interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def repro(context: typer.Context) -> None:
    """Check params.yaml, run the stages that changed, and print the report's path; takes arguments of `dvc repro`.

    With --force the stages also compute everything again instead of reusing existing results.
    """
    from difftrack.configuration import configuration_from

    with one_line_errors("repro"):
        report = configuration_from(read_sections(PARAMS, "paths"), file=PARAMS).paths.report
        check_lock_files(Path())
        force = {"DIFFTRACK_FORCE": "1"} if {"-f", "--force"} & set(context.args) else {}
        status = _call([sys.executable, "-m", "dvc", "repro", *context.args], env={**_environment(), **force})
    if status == 0:
        _show_headlines(Path(report))
        if (said := advice(Path())) is not None:
            typer.echo(said)
    raise typer.Exit(status)


def _call(command: Sequence[str], **how: Any) -> int:  # noqa: ANN401 - whatever Popen takes
    """Run a program to its end, and return its exit status.

    Ctrl-C and SIGTERM first end its current stage and then itself; this process waits for both. DVC's unhelpful hints
    are removed from its output.

    Raises:
        Interrupted: after that.
    """
    import psutil

    from difftrack.interrupts import Interrupted

    numbers: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        if number == signal.SIGINT and _in_foreground():
            return  # the terminal has sent it to all of them
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid)
            for each in (started, *started.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)

    folder = Path(how.get("cwd", "."))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", **how) as process:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for line in without_hints(process.stdout or (), remote=has_remote(folder)):
                typer.echo(line, nl=False)
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if numbers:
        raise Interrupted(numbers[0])
    return status


def _in_foreground() -> bool:
    """Return whether a terminal sends Ctrl-C to this process and its children; a Windows console does."""
    if os.name == "nt":
        return True
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def _show_headlines(report: Path) -> None:
    """Print the headlines of the report if the report stage has run."""
    from difftrack.documents import read_json

    headlines = report / "headlines.json"
    if headlines.exists():
        for headline in read_json(headlines):
            typer.echo(f"{headline['value']:>12}  {headline['label']}")
        typer.echo(f"report: {report / 'index.html'}")
