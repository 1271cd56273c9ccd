"""The pipeline: one thin module per DVC stage."""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    """End a stage that is still loading what it needs, where nothing has to be ended in order."""
    os.write(sys.stderr.fileno(), b"interrupted before the stage began; the next run begins anew\n")
    os._exit(128 + number)


if sys.argv[:1] == ["-m"]:  # Python is about to run one of the modules; `stages._run` takes over from there
    for _number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, _leave)
