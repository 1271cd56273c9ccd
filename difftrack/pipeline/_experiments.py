"""What a stage owes to the DVC that runs it: the artifacts of the workspace in a run elsewhere, and an end with it.

`dvc exp run --temp` and `--queue` run in a clone below `.dvc/tmp/exps`, which holds nothing that DVC does not cache:
no descriptors, and before dvc.lock is committed no clips. The stages that load a model take up there what the workspace
has, by the same proof as ever, so that an experiment about anything else runs none.
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
"""How artifacts are brought from the workspace: as links to the same bytes, for files that are only ever replaced as a
whole, as a store's are; or as copies."""

_EXPERIMENTS = (".dvc", "tmp", "exps")
"""The folder, below a project, in which DVC runs experiments."""
_LEFT_OUT = shutil.ignore_patterns(".locks", "*.partial", ".*.part")
"""Files of those that write there at this moment."""


def workspace_of(folder: Path) -> Path | None:
    """The project that DVC runs an experiment of in this folder; None where the folder is no such place."""
    for place in folder.parents:
        if place.parts[-len(_EXPERIMENTS) :] == _EXPERIMENTS:
            return place.parents[len(_EXPERIMENTS) - 1]
    return None


def borrow(out: Path, how: Borrows, *, here: Path | None = None) -> Path | None:
    """Bring an output of the workspace into an experiment's folder, where that has none yet.

    The stage decides what of it can be taken up, as it does in the workspace.

    Args:
        out: The output, relative to the project.
        how: As links or as copies.
        here: The experiment's project; the current folder by default.

    Returns:
        Where it was taken from; None where nothing was.
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
    """Link a file, or copy it where links do not reach."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def running_dvc() -> "psutil.Process | None":
    """The process of DVC that runs this stage; None where none does."""
    if "DVC_STAGE" not in os.environ:  # which DVC sets for its stages
        return None
    try:
        import psutil  # comes with DVC

        for process in psutil.Process().parents():
            if any(Path(word).stem.lower() == "dvc" for word in process.cmdline()):
                return process
    except (ImportError, psutil.Error):
        pass
    return None


def is_orphan() -> bool:
    """Whether DVC started this stage and was killed before the stage, busy with its imports, could look for it."""
    return "DVC_STAGE" in os.environ and os.getppid() == 1 and running_dvc() is None


def end_with(
    process: "psutil.Process",
    *,
    every_s: float = 1.0,
    then: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGTERM),
) -> threading.Thread:
    """End this process, in order, once another one is gone.

    `dvc queue stop --kill` kills DVC and not the stage that it runs, which would go on with a model for hours.

    Args:
        process: The one to watch.
        every_s: How often to look.
        then: What ends this one: SIGTERM to itself.
    """
    import psutil

    def watch() -> None:
        while True:
            with suppress(psutil.TimeoutExpired):
                process.wait(every_s)  # returns once it is gone
                break
            with suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    break
        then()

    thread = threading.Thread(target=watch, name="end-with-dvc", daemon=True)
    thread.start()
    return thread
