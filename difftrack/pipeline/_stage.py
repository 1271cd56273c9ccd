"""What every stage shares: read params.yaml and the paths on the command line, run, and turn errors into one line.

Usage, as written in dvc.yaml:

    python -m stages.NAME [key=value ...] [item.key=value ...] -- [key=path ...]

Paths before `--` are read, paths after it are written. `item.*` names one cell of a DVC matrix.
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
"""The output into which several stages lay things aside at once; `difftrack.keeping` lets one at a time do so."""
FORCE = "DIFFTRACK_FORCE"
"""Set to 1 it makes stages take up nothing that is there already; `difftrack repro --force` sets it."""

_to_do: dict[str, bool] = {}
"""Clips of the loop under way, and whether they are done: what is said where the stage is interrupted."""


def run(
    stage: str,
    main: Callable[[Mapping[str, Any], Paths, Paths], None],
    *,
    whole: bool = False,
    resumes: bool = False,
    alone: bool = True,
    borrows: Borrows | None = None,
) -> None:
    """Call a stage's `main(params, deps, outs)` with what the command line names; exit 1 on an error.

    Ctrl-C ends it with one line and status 130, SIGTERM with 143, once what is under way has been ended in order.

    Args:
        stage: The stage's name, which is its section of params.yaml.
        main: Reads `deps` and writes `outs`. Expected errors are ValueError and OSError; they are printed as one line.
        whole: Give `main` all of params.yaml, with the matrix cell as its `item` section and whether all is to be made
            anew as `force`, instead of one section.
        resumes: Whether another run keeps the clips that are done.
        alone: Let one process at a time write `outs`; the next waits. Otherwise that is the stage's own care.
        borrows: How an experiment elsewhere takes over what the workspace's `outs` hold; by default it does not.
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
                    say(stage, f"an experiment: takes up what {source} holds")
            main(values, deps, outs)
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError, Interrupted) as error:
        if os.environ.get(TRACEBACK):
            raise
        if isinstance(error, Interrupted):
            traceback.clear_frames(error.__traceback__)  # ends workers that a loop under way has started
            tell([f"interrupted during {stage}{_left(resumes=resumes)}"])
            sys.exit(error.status)
        if (said := failure_line(error)) is None:
            raise  # a fault of the program
        sys.exit(f"{stage}: {said}")


def each(items: Iterable[T], description: str, *, names: Sequence[str] = ()) -> Iterator[T]:
    """Loop over clips with a progress bar where somebody watches.

    Args:
        items: One by one, in the order of `names`.
        description: Of the bar.
        names: Of the clips, where they are not the items themselves; those that are not known beforehand are counted.
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
        outcomes: Clips and what came of them.
        names: All clips.
    """
    _begin(names)
    for clip, outcome in outcomes:
        _to_do[clip] = True
        yield clip, outcome


def _begin(names: Iterable[str]) -> None:
    _to_do.clear()
    _to_do.update(dict.fromkeys(names, False))


def _left(*, resumes: bool) -> str:
    """What an interrupted stage says of its clips."""
    waiting = [name for name, done in _to_do.items() if not done]
    if not _to_do:
        return "; the next run begins anew"
    said = f": {len(_to_do) - len(waiting)} of {counted(len(_to_do), 'clip')} are done"
    if not resumes:
        return f"{said}; the next run does them all again"
    return f"{said}; the next run goes on with {waiting[0]}" if waiting else f"{said}; the next run keeps them"


def tell(remarks: Iterable[str]) -> None:
    """Say on stderr what a person should know of a run that goes on."""
    for remark in remarks:
        print(remark, file=sys.stderr)


def end(stage: str, failures: Mapping[str, str], *, total: int, of: str = "") -> None:
    """End a stage that has done all that it could: by naming the clips that failed, with exit status 1, if any did.

    Args:
        stage: Its name.
        failures: By clip, why.
        total: Clips that there had to be.
        of: The stage that makes what may be missing or damaged.
    """
    if failures:
        listed = "\n".join(f"  {name}: {cause}" for name, cause in sorted(failures.items()))
        way_out = f" (what is missing or damaged: run the {of} stage again)" if of else ""
        sys.exit(f"{stage}: {len(failures)} of {counted(total, 'clip')} failed{way_out}\n{listed}")


def say(stage: str, line: str) -> None:
    """Say something beside the progress."""
    print(f"{stage}: {line}", file=sys.stderr, flush=True)


def forced() -> bool:
    """Whether everything is to be made anew: by the environment, or by `-f` of the `dvc repro` that runs this stage.

    DVC tells a stage nothing of its options, so that its command line is looked up among the processes above this one.
    """
    if FORCE in os.environ:
        return os.environ[FORCE] not in ("", "0")
    try:
        import psutil  # comes with DVC; without both there is nothing to look up

        return any(asks_for_force(process.cmdline()) for process in psutil.Process().parents())
    except (ImportError, psutil.Error):
        return False


def asks_for_force(command: Sequence[str]) -> bool:
    """Whether a command line is one of `dvc repro` or `dvc exp run` with the option `-f`."""
    words = list(command)
    at = next((place for place, word in enumerate(words) if Path(word).stem.lower() == "dvc"), None)
    if at is None:
        return False
    options = words[at + 1 :]
    plain = [word for word in options if not word.startswith("-")]
    runs = plain[:1] == ["repro"] or plain[:2] == ["exp", "run"]
    return runs and any(word == "--force" or re.fullmatch(r"-[A-Za-z]*f[A-Za-z]*", word) for word in options)


def kept_folder(outs: Paths, out: str) -> Path:
    """The folder of what is not asked for any more: `kept`, where the command line names it, else one beside an output.

    Args:
        outs: What the command line names.
        out: The output that things leave.
    """
    return outs.get(KEPT, outs[out].with_name(f"{outs[out].name}.kept"))


def _split(words: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]
