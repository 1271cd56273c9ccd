"""How a run ends early: Ctrl-C and SIGTERM raise once and in order, memory runs out, another library fails."""

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
"""Environment variable that asks for tracebacks in place of one line."""

_DOUBLE_S = 1.0
"""A signal this soon after the first is the same one, which came by two ways: the terminal's and a parent's."""


class Interrupted(KeyboardInterrupt):
    """The run was told to stop, by Ctrl-C or by SIGTERM; like `KeyboardInterrupt` it is no `Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"by {signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """What a shell reports of a program that such a signal ended: 130 or 143."""
        return 128 + self.number


class TooLargeError(ValueError):
    """Memory ran out over one clip, or a library could not take its size; others can go on."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` where Ctrl-C or SIGTERM meets the main thread.

    Only the first one raises, so that what is under way can be ended in order; another one, a second later or more,
    ends the process at once. Where Ctrl-C is ignored, as in the background of a shell, it stays so.
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
        numbers = []  # signals are the main thread's
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if not first:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def shielded(*, also_from_sigterm: bool = False) -> Iterator[None]:
    """Keep Ctrl-C from processes and threads that are started meanwhile: a terminal sends it to all of a run's.

    This process hears afterwards of what came in between.

    Args:
        also_from_sigterm: Keep SIGTERM from them too, until they call `heed_sigterm`.
    """
    numbers = {signal.SIGINT, *([signal.SIGTERM] if also_from_sigterm else [])}
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would let the signal through again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_sigterm() -> None:
    """Hear of SIGTERM from now on, and of one that came before, in a process that was started shielded from it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def failure_line(error: BaseException) -> str | None:
    """One line for a failure that a person can mend, or that another library raises; None for a fault of this program.

    This program raises no `RuntimeError` of its own: those are libraries', with what torch and CUDA derive from it. So
    are `ImportError` and the missing package's `PackageNotFoundError`.
    """
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())
    if (memory := lack_of_memory(error)) is not None:
        return memory
    words = " ".join(str(error).split()) or "no reason is given"
    if isinstance(error, ImportError) and not (error.name or "").startswith(__name__.partition(".")[0]):
        return f"{words}; install the package that this names (pip install {error.name or 'PACKAGE'})"
    if not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError | RecursionError):
        return None
    where = f"with {TRACEBACK}=1 the same command shows where"
    return f"{_raised_in(error)} failed with {type(error).__name__}: {words}; {where}"


@contextmanager
def one_too_large(way_out: str) -> Iterator[None]:
    """One clip's lack of memory, and what a library raises over its size, become an error of that clip alone.

    What the failed computation held is let go of, on the GPU too, so that the next clip has room.

    Args:
        way_out: Which keys of params.yaml to change, and how.

    Raises:
        TooLargeError: that is so; one line with the cause and the way out.
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
    """What one clip failed with; None for a fault of this program, and where a GPU cannot go on."""
    text = " ".join(str(error).split())
    if lack_of_memory(error) is not None:
        return f"memory has run out ({text})" if text else "memory has run out"
    lost = "CUDA error" in text or "HIP error" in text
    return None if type(error) is not RuntimeError or lost else f"{_raised_in(error)} failed with RuntimeError: {text}"


def _raised_in(error: BaseException) -> str:
    """Name of the package whose code raised an error, as far as that is Python's."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    package = name.partition(".")[0]
    return package if package not in ("", __name__.partition(".")[0]) else "a library"


def lack_of_memory(error: BaseException) -> str | None:
    """One line about memory that has run out, with the way out; None for any other error.

    Python and NumPy raise `MemoryError`, a GPU `torch.OutOfMemoryError`; torch on a CPU says so in words alone.
    """
    torch = sys.modules.get("torch")
    of_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    text = " ".join(str(error).split())
    if not (isinstance(error, MemoryError) or of_gpu or "DefaultCPUAllocator: can't allocate memory" in text):
        return None
    cause = f" ({text})" if text else ""
    return f"memory has run out{cause}; make the size, or the number of frames, points or workers, smaller"
