"""Shared by all verbs: the application, one-line errors, params files."""

import copy
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from difftrack.pipeline._loading import sleep_while_waiting

P = ParamSpec("P")


T = TypeVar("T")


PARAMS = Path("params.yaml")
"""The params file in the current folder."""


app = typer.Typer(
    help="Where video diffusion transformers keep track of points: measure it, track with it, guide with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"difftrack {version('difftrack-video')}")
        except PackageNotFoundError:
            typer.echo("difftrack, in a checkout that is not installed (pip install -e . sets a version)")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Where video diffusion transformers keep track of points: measure it, track with it, guide with it."""
    sleep_while_waiting()


AFTER_INTERRUPT = {
    "ablate": "finished cells are kept, and the next run continues after them",
    "explore": "the server stopped",
    "guide": "finished prompts are kept, and the next run continues after them",
    "preset": "the next run continues where this one stopped",
    "repro": "the next run continues where this one stopped",
    "sweep": "finished runs are kept, and the next sweep continues after them",
}
"""What an interrupted verb keeps; other verbs keep nothing."""


@contextmanager
def one_line_errors(verb: str = "") -> Iterator[None]:
    """Turn user errors and interrupts into one line on stderr: exit status 1, after Ctrl-C 130, after SIGTERM 143."""
    from difftrack.interrupts import TRACEBACK, Interrupted, failure_line, interruptible

    try:
        with interruptible(), warnings.catch_warnings():
            warnings.showwarning = _warn_in_one_line
            yield
    except Interrupted as error:
        after = AFTER_INTERRUPT.get(verb, "the next run starts from the beginning")
        typer.echo(f"difftrack: interrupted{f' during {verb}' if verb else ''}; {after}", err=True)
        raise typer.Exit(error.status) from error
    except (typer.Exit, BrokenPipeError):  # a verb's own exit status, or a closed pipe, as with `head`
        raise
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError) as error:
        said = failure_line(error)
        if said is None or os.environ.get(TRACEBACK):
            raise
        typer.echo(f"difftrack: {said}", err=True)
        raise typer.Exit(1) from error


def _warn_in_one_line(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning's message without its source line."""
    typer.echo(f"difftrack: {' '.join(str(message).split())}", err=True)


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Add a function to the command line under its name, with one-line errors."""

    @app.command()
    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with one_line_errors(function.__name__):
            function(*args, **kwargs)

    return guarded


def parse_points(text: str) -> list[tuple[float, float]]:
    """Parse "x,y x,y ..."."""
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise typer.BadParameter(f"{text!r} is not a list of points; expected x,y pairs with blanks between them")
    return [(pair[0], pair[1]) for pair in pairs]


def ranking_file(values: dict[str, Any], params: Path, backbone: str) -> Path:
    """Return a backbone's ranking of layers from the score stage of these params, or None."""
    paths = values.get("paths")
    scores = paths.get("scores") if isinstance(paths, dict) else None
    file = (Path(scores) if scores else params.parent / "data" / "scores") / backbone / "best_layers.json"
    check_made(file)
    return file


def default_params() -> Path:
    """Return the params file of this folder, or the package's own if there is none."""
    from difftrack.resources import shipped

    return PARAMS if PARAMS.exists() else shipped("params.yaml")


def check_made(path: Path) -> None:
    """Raise an error if an artifact of the pipeline is missing."""
    if not path.exists():
        raise ValueError(f"there is no {path}; run `make repro` (or `difftrack repro`) first, which writes it")


def read_yaml_file(path: Path) -> dict[str, Any]:
    """Read a YAML file."""
    from difftrack.documents import read_yaml

    values: dict[str, Any] = read_yaml(path)
    return values


def read_sections(path: Path, *sections: str) -> dict[str, Any]:
    """Read a params file that must contain these sections."""
    from difftrack.params import parse_each

    try:
        values = read_yaml_file(path)
    except FileNotFoundError as error:
        wanted = "run this in the folder of a params file, name one with --params, or make one: difftrack init FOLDER"
        raise ValueError(f"there is no {path}: {wanted}") from error
    for section in sections:
        if not isinstance(values, dict) or not isinstance(values.get(section), dict):
            raise ValueError(f"{path}: section {section} is missing")
    parse_each(str, values.get("paths") or {}, "paths", file=path)
    if "backbones" in sections:
        _check_backbones(values["backbones"], path)
    return values


_PATHS = (
    ("backbones", "*", "path"),
    ("synthesize", "folder", "path"),
    ("synthesize", "folder", "prompts"),
    ("synthesize", "generated", "prompts"),
    ("synthesize", "generated", "indices"),
    ("synthesize", "generated", "images"),
    ("annotate", "object_masks"),
    ("annotate", "published"),
    ("guide", "prompts"),
    ("guide", "images"),
    ("paths", "*"),
)
"""Keys of params.yaml that hold paths."""


def anchored(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the values of a params file, with relative paths resolved against its own folder."""
    folder = file.parent
    if folder == Path():
        return values
    anchored_values = copy.deepcopy(values)
    for keys in _PATHS:
        _anchor(anchored_values, keys, folder)
    return anchored_values


def _anchor(values: Any, keys: Sequence[str], folder: Path) -> None:  # noqa: ANN401 - whatever a file holds
    if not isinstance(values, dict):
        return
    first, *others = keys
    for key in list(values) if first == "*" else [first]:
        if others:
            _anchor(values.get(key), others, folder)
        elif isinstance(values.get(key), str):
            values[key] = str(folder / values[key])


def _check_backbones(backbones: dict[str, Any], path: Path) -> None:
    from difftrack.backbones import ModelParams
    from difftrack.params import parse_each

    if not backbones:
        raise ValueError(f"{path}: backbones is empty; it needs at least one backbone")
    parse_each(ModelParams | None, backbones, "backbones", file=path)


def read_extraction(path: Path) -> dict[str, Any]:
    """The sections of a params file that the stage `extract` reads."""
    from difftrack.extraction import ExtractParams
    from difftrack.params import parse

    values = read_sections(path, "paths", "extract", "backbones")
    parse(ExtractParams, values["extract"], "extract", file=path)
    for name in ("clips", "descriptors"):
        if name not in values["paths"]:
            raise ValueError(f"{path}: paths.{name} is missing; expected a path")
    return anchored(values, path)


def watched(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Show a progress bar on a terminal."""
    from rich.progress import track as progress

    return progress(items, description=description, total=total, disable=not sys.stderr.isatty())
