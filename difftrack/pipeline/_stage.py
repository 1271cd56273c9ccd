"""Shared code of all stages: read params.yaml and the command line, run the stage, and print errors as one line.

Usage, as written in dvc.yaml:

    python -m stages.NAME [key=value ...] [item.key=value ...] -- [key=path ...]

Paths before `--` are inputs, paths after it are outputs. `item.*` selects one cell of a DVC matrix.
"""

import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import track

from difftrack.interrupts import TRACEBACK, Interrupted, failure_line, interruptible
from difftrack.locks import lock_of
from difftrack.ownership import check_folders
from difftrack.params import PARAMS_FILE, read_params
from difftrack.pipeline._experiments import Borrows, borrow, end_with, is_orphan, running_dvc
from difftrack.wording import counted

__all__ = ["Paths", "each", "end", "finished", "kept_folder", "run", "say", "tell"]

T = TypeVar("T")

Paths = Mapping[str, Path]
ITEM = "item."
KEPT = "kept"
"""The output folder of kept artifacts, which several stages share; `difftrack.keeping` locks it."""
FORCE = "DIFFTRACK_FORCE"
"""Environment variable that, set to 1, keeps stages from reusing artifacts; `difftrack repro --force` sets it."""

_to_do: dict[str, bool] = {}
"""Clips of the current loop, and whether each is done; reported when the stage is interrupted."""


def run(
    stage: str,
    main: Callable[[Mapping[str, Any], Paths, Paths], None],
    *,
    whole: bool = False,
    resumes: bool = False,
    alone: bool = True,
    borrows: Borrows | None = None,
) -> None:
    """Call a stage's `main(params, deps, outs)` with the paths on the command line; exit with status 1 on an error.

    Ctrl-C ends the stage with one line and status 130, SIGTERM with status 143, after current work has ended in order.

    Args:
        stage: Name of the stage and of its section in params.yaml.
        main: Reads `deps` and writes `outs`. Expected errors are ValueError and OSError; they are printed as one line.
        whole: Pass all of params.yaml to `main` instead of one section, with the matrix cell as section `item`, and
            whether everything must be made again as `force`.
        resumes: Whether a later run keeps finished clips.
        alone: Let only one process at a time write `outs`; others wait. False leaves locking to the stage.
        borrows: How an experiment borrows the workspace's `outs`; None borrows nothing.
    """
    before, separator, after = _split(sys.argv[1:])
    if not separator or not all("=" in word for word in [*before, *after]):
        sys.exit(f"{stage}: usage: python -m stages.{stage} [key=path ...] [item.key=value ...] -- [key=path ...]")
    named = dict(word.split("=", 1) for word in before)
    item = {key.removeprefix(ITEM): value for key, value in named.items() if key.startswith(ITEM)}
    deps = {key: Path(value) for key, value in named.items() if not key.startswith(ITEM)}
    outs = {key: Path(value) for key, value in (word.split("=", 1) for word in after)}
    try:
        params = read_params(PARAMS_FILE)
        check_folders(params, Path.cwd())
        if not whole and stage not in params:
            raise ValueError(f"{PARAMS_FILE} has no section {stage}")
        values = {**params, "item": item, "force": forced()} if whole else params[stage]
        with interruptible(), ExitStack() as held:
            if (dvc := running_dvc()) is not None:
                end_with(dvc)
            elif is_orphan():
                raise Interrupted(signal.SIGTERM)
            written = sorted(path for name, path in outs.items() if name != KEPT)
            for out in written if alone else ():
                held.enter_context(lock_of(out).acquire(wait_s=math.inf, say=partial(say, stage)))
            for out in written:
                if borrows is not None and not forced() and (source := borrow(out, borrows)) is not None:
                    say(stage, f"an experiment: reuses the contents of {source}")
            main(values, deps, outs)
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError, Interrupted) as error:
        if os.environ.get(TRACEBACK):
            raise
        if isinstance(error, Interrupted):
            traceback.clear_frames(error.__traceback__)  # ends the workers of the current loop
            tell([f"interrupted during {stage}{_left(resumes=resumes)}"])
            sys.exit(error.status)
        if (line := failure_line(error)) is None:
            raise  # a bug in this program
        sys.exit(f"{stage}: {line}")


def each(items: Iterable[T], description: str, *, names: Sequence[str] = ()) -> Iterator[T]:
    """Loop over clips, with a progress bar if stderr is a terminal.

    Args:
        items: The items, in the order of `names`.
        description: Text of the bar.
        names: Names of the clips, if they are not the items themselves; unknown names are replaced by numbers.
    """
    listed = list(names) or ([str(item) for item in items] if isinstance(items, list) else [])
    _begin(listed)
    watched = track(items, description, total=len(listed) or None, disable=not sys.stderr.isatty())
    for item, name in zip(watched, chain(listed, map(str, count(1))), strict=False):
        yield item
        _to_do[name] = True


def finished(outcomes: Iterable[tuple[str, T]], names: Sequence[str]) -> Iterator[tuple[str, T]]:
    """Loop over clips in the order in which workers finish them.

    Args:
        outcomes: Pairs of a clip and its outcome.
        names: Names of all clips.
    """
    _begin(names)
    for clip, outcome in outcomes:
        _to_do[clip] = True
        yield clip, outcome


def _begin(names: Iterable[str]) -> None:
    _to_do.clear()
    _to_do.update(dict.fromkeys(names, False))


def _left(*, resumes: bool) -> str:
    """Describe the progress of an interrupted stage."""
    waiting = [name for name, done in _to_do.items() if not done]
    if not _to_do:
        return "; the next run starts from the beginning"
    progress = f": {len(_to_do) - len(waiting)} of {counted(len(_to_do), 'clip')} are done"
    if not resumes:
        return f"{progress}; the next run repeats all of them"
    return f"{progress}; the next run {f'continues with {waiting[0]}' if waiting else 'keeps them'}"


def tell(remarks: Iterable[str]) -> None:
    """Print remarks to stderr; the run continues."""
    for remark in remarks:
        print(remark, file=sys.stderr)


def end(stage: str, failures: Mapping[str, str], *, total: int, of: str = "") -> None:
    """Report the clips that failed, and exit with status 1 if there are any.

    Args:
        stage: Name of the stage.
        failures: Clip -> error message.
        total: Number of clips.
        of: The stage whose outputs may be missing or damaged.
    """
    if failures:
        listed = "\n".join(f"  {name}: {cause}" for name, cause in sorted(failures.items()))
        way_out = f" (if files are missing or damaged, run the {of} stage again)" if of else ""
        sys.exit(f"{stage}: {len(failures)} of {counted(total, 'clip')} failed{way_out}\n{listed}")


def say(stage: str, line: str) -> None:
    """Print a message to stderr."""
    print(f"{stage}: {line}", file=sys.stderr, flush=True)


def forced() -> bool:
    """Whether everything must be made again: set in the environment, or by `-f` of the `dvc repro` above.

    DVC does not pass its options to a stage, so this function looks up the command lines of the parent processes.
    """
    if FORCE in os.environ:
        return os.environ[FORCE] not in ("", "0")
    try:
        import psutil  # a dependency of DVC

        return any(asks_for_force(process.cmdline()) for process in psutil.Process().parents())
    except (ImportError, psutil.Error):
        return False


def asks_for_force(command: Sequence[str]) -> bool:
    """Whether a command line is `dvc repro` or `dvc exp run` with the option `-f`."""
    words = list(command)
    at = next((place for place, word in enumerate(words) if Path(word).stem.lower() == "dvc"), None)
    if at is None:
        return False
    options = words[at + 1 :]
    plain = [word for word in options if not word.startswith("-")]
    runs = plain[:1] == ["repro"] or plain[:2] == ["exp", "run"]
    return runs and any(word == "--force" or re.fullmatch(r"-[A-Za-z]*f[A-Za-z]*", word) for word in options)


def kept_folder(outs: Paths, out: str) -> Path:
    """Return the folder of kept artifacts: `kept` on the command line, or else a folder beside an output.

    Args:
        outs: The outputs on the command line.
        out: The output whose unused artifacts are kept.
    """
    return outs.get(KEPT, outs[out].with_name(f"{outs[out].name}.kept"))


def _split(words: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]
