"""Handle early ends of a run: Ctrl-C, SIGTERM, lack of memory, and errors of other libraries."""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

__all__ = [
    "TRACEBACK",
    "Interrupted",
    "TooLargeError",
    "failure_line",
    "heed_sigterm",
    "interruptible",
    "lack_of_memory",
    "one_too_large",
    "shielded",
]

TRACEBACK = "DIFFTRACK_TRACEBACK"
"""Environment variable that enables tracebacks instead of one-line messages."""

_DOUBLE_S = 1.0
"""A second signal within this time, in seconds, counts as the same one, sent by the terminal and by a parent."""


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM; like `KeyboardInterrupt` this is not an `Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"by {signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """Exit status that a shell reports for this signal: 130 or 143."""
        return 128 + self.number


class TooLargeError(ValueError):
    """Memory ran out for one clip, or a library cannot process its size; other clips can continue."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread on Ctrl-C or SIGTERM.

    Only the first signal raises, so that current work can end in order. Another signal, a second or more later, ends
    the process immediately. A signal that is ignored, such as Ctrl-C in a background job, stays ignored.
    """
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] > _DOUBLE_S:
            os._exit(128 + number)
        if not first:
            first.append(now)
            raise Interrupted(number)

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread can handle signals
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if not first:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def shielded(*, also_from_sigterm: bool = False) -> Iterator[None]:
    """Block Ctrl-C in processes and threads started in this context, because a terminal sends it to all of them.

    This process receives a blocked signal when the context ends.

    Args:
        also_from_sigterm: Also block SIGTERM in them, until they call `heed_sigterm`.
    """
    numbers = {signal.SIGINT, *([signal.SIGTERM] if also_from_sigterm else [])}
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_sigterm() -> None:
    """Unblock SIGTERM in a process that was started with SIGTERM blocked; a pending signal is delivered."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def failure_line(error: BaseException) -> str | None:
    """Return one line for a failure that the user can fix or another library raised; None for a bug in this program.

    This program never raises `RuntimeError`, so a `RuntimeError` and the classes that torch and CUDA derive from it
    come from libraries. The same holds for `ImportError` and `PackageNotFoundError`.
    """
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())
    if (memory := lack_of_memory(error)) is not None:
        return memory
    words = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, ImportError) and not (error.name or "").startswith(__name__.partition(".")[0]):
        return f"{words}; install the missing package (pip install {error.name or 'PACKAGE'})"
    if not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError | RecursionError):
        return None
    where = f"set {TRACEBACK}=1 to see the traceback"
    return f"{_raised_in(error)} failed with {type(error).__name__}: {words}; {where}"


@contextmanager
def one_too_large(way_out: str) -> Iterator[None]:
    """Turn one clip's lack of memory, or a library's error about its size, into an error of that clip alone.

    Memory of the failed computation is freed, also on the GPU, so that the next clip has room.

    Args:
        way_out: The keys of params.yaml to change, and how.

    Raises:
        TooLargeError: such an error occurred; one line with the cause and the way out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if os.environ.get(TRACEBACK) or (cause := _over_one_clip(error)) is None:
            raise
        traceback.clear_frames(error.__traceback__)
    else:
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
    raise TooLargeError(f"{cause}; {way_out}")


def _over_one_clip(error: BaseException) -> str | None:
    """Return the cause of one clip's failure; None for a bug in this program, and if a GPU cannot continue."""
    text = " ".join(str(error).split())
    if lack_of_memory(error) is not None:
        return f"memory has run out ({text})" if text else "memory has run out"
    lost = "CUDA error" in text or "HIP error" in text
    return None if type(error) is not RuntimeError or lost else f"{_raised_in(error)} failed with RuntimeError: {text}"


def _raised_in(error: BaseException) -> str:
    """Return the name of the package whose Python code raised an error."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    package = name.partition(".")[0]
    return package if package not in ("", __name__.partition(".")[0]) else "a library"


def lack_of_memory(error: BaseException) -> str | None:
    """Return one line about a lack of memory, with the way out; None for any other error.

    Python and NumPy raise `MemoryError`, and torch raises `torch.OutOfMemoryError` on a GPU. On a CPU, torch raises a
    generic error that is recognised by its text.
    """
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    text = " ".join(str(error).split())
    if not (isinstance(error, MemoryError) or on_gpu or "DefaultCPUAllocator: can't allocate memory" in text):
        return None
    cause = f" ({text})" if text else ""
    return f"out of memory{cause}; reduce the size, or the number of frames, points or workers"
