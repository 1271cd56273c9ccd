"""Set up a program before its slow imports: handle interrupts, and do not block the processor."""

import os
import signal
import sys
from types import FrameType

__all__ = ["end_while_loading", "sleep_while_waiting"]


def end_while_loading() -> None:
    """Let Ctrl-C and SIGTERM end the process with one line until the stage starts."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep while they wait, unless the environment sets another policy.

    By default they spin. That costs little on idle cores, but on two busy cores it costs more than the work itself:
    docs/performance.md. The results do not change. OpenMP reads the setting when torch is imported, so call this
    earlier.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"interrupted before the stage started; the next run starts from the beginning\n")
    os._exit(128 + number)
