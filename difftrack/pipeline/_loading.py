"""What a program does before it loads anything: it can be interrupted, and shares the processor with others."""

import os
import signal
import sys
from types import FrameType

__all__ = ["end_while_loading", "sleep_while_waiting"]


def end_while_loading() -> None:
    """Let Ctrl-C and SIGTERM end the process with one line, until the stage takes over."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep while one waits for another, unless the environment says otherwise.

    By default they spin. That costs little where the cores are idle, and on two busy ones more than the work itself:
    docs/performance.md. The numbers stay the same. OpenMP reads this when torch is imported: it has to be said before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"interrupted before the stage began; the next run begins anew\n")
    os._exit(128 + number)
