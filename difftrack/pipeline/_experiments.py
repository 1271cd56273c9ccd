"""Support for DVC: reuse the workspace's artifacts in an experiment's clone, and end with the DVC process.

`dvc exp run --temp` and `--queue` run in a clone in `.dvc/tmp/exps`. The clone lacks everything that DVC does not
cache: the descriptors, and, before dvc.lock is committed, the clips. Stages that load a model therefore borrow the
workspace's artifacts and reuse them under the usual conditions, so that an experiment on later stages runs no model.
"""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

if TYPE_CHECKING:
    import psutil

__all__ = ["Borrows", "borrow", "end_with", "is_orphan", "running_dvc", "workspace_of"]

Borrows = Literal["links", "copies"]
"""How artifacts are borrowed from the workspace: as hard links, for files that are only replaced as a whole, such as a
store's, or as copies."""

_EXPERIMENTS = (".dvc", "tmp", "exps")
"""The folder inside a project in which DVC runs experiments."""
_LEFT_OUT = shutil.ignore_patterns(".locks", "*.partial", ".*.part")
"""Ignores files of processes that are currently writing."""


def workspace_of(folder: Path) -> Path | None:
    """Return the project of a DVC experiment that runs in this folder; None for any other folder."""
    for place in folder.parents:
        if place.parts[-len(_EXPERIMENTS) :] == _EXPERIMENTS:
            return place.parents[len(_EXPERIMENTS) - 1]
    return None


def borrow(out: Path, how: Borrows, *, here: Path | None = None) -> Path | None:
    """Borrow an output from the workspace if an experiment's folder does not contain it yet.

    The stage then decides what it can reuse, as in the workspace.

    Args:
        out: The output, relative to the project.
        how: Borrow as links or as copies.
        here: The experiment's project; the current folder by default.

    Returns:
        The source; None if nothing was borrowed.
    """
    here = here or Path.cwd()
    workspace, target = workspace_of(here), here / out
    if workspace is None or out.is_absolute() or (target.exists() and any(target.iterdir())):
        return None
    source = workspace / out
    if not source.is_dir():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        shutil.copytree(source, partial, copy_function=_link if how == "links" else shutil.copy2, ignore=_LEFT_OUT)
        with suppress(FileNotFoundError):
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return source


def _link(source: str, target: str) -> None:
    """Link a file, or copy it if linking fails."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def running_dvc() -> "psutil.Process | None":
    """Return the DVC process that runs this stage; None if there is none."""
    if "DVC_STAGE" not in os.environ:  # DVC sets it for its stages
        return None
    try:
        import psutil  # a dependency of DVC

        for process in psutil.Process().parents():
            if any(Path(word).stem.lower() == "dvc" for word in process.cmdline()):
                return process
    except (ImportError, psutil.Error):
        pass
    return None


def is_orphan() -> bool:
    """Whether DVC started this stage and was killed while the stage was still importing modules."""
    return "DVC_STAGE" in os.environ and os.getppid() == 1 and running_dvc() is None


def end_with(
    process: "psutil.Process",
    *,
    every_s: float = 1.0,
    then: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGTERM),
) -> threading.Thread:
    """End this process in order when another process ends.

    `dvc queue stop --kill` kills DVC but not the stage, which would continue to run a model for hours.

    Args:
        process: The process to watch.
        every_s: Interval between checks, in seconds.
        then: Ends this process; by default it sends SIGTERM to itself.
    """
    import psutil

    def watch() -> None:
        while True:
            with suppress(psutil.TimeoutExpired):
                process.wait(every_s)  # returns when the process has ended
                break
            with suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    break
        then()

    thread = threading.Thread(target=watch, name="end-with-dvc", daemon=True)
    thread.start()
    return thread
