"""Ends a stage that is interrupted while it still loads what it needs."""

import os
import signal
import sys
from types import FrameType

__all__ = ["end_while_loading"]


def end_while_loading() -> None:
    """Let Ctrl-C and SIGTERM end the process with one line, until the stage takes over."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"interrupted before the stage began; the next run begins anew\n")
    os._exit(128 + number)
