"""Turns and mirrors frames as their file says: all eight ways in which a picture can lie."""

import struct
from typing import Any

import numpy as np
from jaxtyping import UInt8

__all__ = ["Orientation", "orientation_of"]

_ONE = 1 << 16
"""1 in the fixed point of a display matrix."""


class Orientation:
    """What has to be done to a stored picture.

    With a display matrix whose upper left part is [[a, b], [c, d]], the stored pixel (x, y), x to the right and y down,
    is shown at (a x + c y, b x + d y), up to a shift.

    Args:
        a: See above.
        b: See above.
        c: See above.
        d: See above.

    Raises:
        ValueError: the matrix turns by anything but quarter turns, or shears.

    Source:
        ISO/IEC 14496-12, tkhd and mvhd; FFmpeg's libavutil/display.h. ffmpeg's `-autorotate` shows the same.
    """

    def __init__(self, a: int, b: int, c: int, d: int) -> None:
        self.turned = abs(b) > abs(a)
        """Whether height and width change places."""
        main, other = ((b, c), (a, d)) if self.turned else ((a, d), (b, c))
        if not all(main) or any(abs(value) * 1000 > min(map(abs, main)) for value in other):
            angle = np.degrees(np.arctan2(b, a))
            raise ValueError(f"is turned by {angle:.0f} degrees; only quarter turns and mirrors can be undone")
        self._flip_cols = (c if self.turned else a) < 0
        self._flip_rows = (b if self.turned else d) < 0

    def apply(self, frame: UInt8[np.ndarray, "row col rgb"]) -> UInt8[np.ndarray, "new_row new_col rgb"]:
        """A view of a stored picture as it is to be shown."""
        upright = frame.transpose(1, 0, 2) if self.turned else frame
        rows, cols = (slice(None, None, -1 if flip else 1) for flip in (self._flip_rows, self._flip_cols))
        return upright[rows, cols]


def orientation_of(frame: Any) -> Orientation:  # noqa: ANN401 - PyAV's types are not there before a file is opened
    """The orientation that a frame's file or codec gives it; upright where none is given.

    Raises:
        ValueError: see `Orientation`.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return Orientation(a, b, c, d)
    return Orientation(_ONE, 0, 0, _ONE)
