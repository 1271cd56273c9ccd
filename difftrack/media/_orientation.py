"""Rotate and mirror frames as their file states; all eight orientations are supported."""

import struct
from typing import Any

import numpy as np
from jaxtyping import UInt8

__all__ = ["Orientation", "orientation_of"]

_ONE = 1 << 16
"""The value 1 in the fixed-point format of a display matrix."""


class Orientation:
    """The rotation and mirroring that bring a stored frame upright.

    If the upper left part of the display matrix is [[a, b], [c, d]], the stored pixel (x, y) is displayed at
    (a x + c y, b x + d y), up to a translation; x points right and y points down.

    Args:
        a: Entry of the display matrix, see above.
        b: Entry of the display matrix, see above.
        c: Entry of the display matrix, see above.
        d: Entry of the display matrix, see above.

    Raises:
        ValueError: the matrix shears, or rotates by an angle that is not a multiple of 90 degrees.

    Source:
        ISO/IEC 14496-12, tkhd and mvhd; FFmpeg's libavutil/display.h. The result equals that of ffmpeg's `-autorotate`.
    """

    def __init__(self, a: int, b: int, c: int, d: int) -> None:
        self.turned = abs(b) > abs(a)
        """Whether height and width are swapped."""
        main, other = ((b, c), (a, d)) if self.turned else ((a, d), (b, c))
        if not all(main) or any(abs(value) * 1000 > min(map(abs, main)) for value in other):
            angle = np.degrees(np.arctan2(b, a))
            raise ValueError(f"is rotated by {angle:.0f} degrees; only multiples of 90 and mirroring are supported")
        self._flip_cols = (c if self.turned else a) < 0
        self._flip_rows = (b if self.turned else d) < 0

    def apply(self, frame: UInt8[np.ndarray, "row col rgb"]) -> UInt8[np.ndarray, "new_row new_col rgb"]:
        """Return an upright view of a stored frame."""
        upright = frame.transpose(1, 0, 2) if self.turned else frame
        rows, cols = (slice(None, None, -1 if flip else 1) for flip in (self._flip_rows, self._flip_cols))
        return upright[rows, cols]


def orientation_of(frame: Any) -> Orientation:  # noqa: ANN401 - PyAV is imported only when a file is opened
    """Return the orientation that a frame's file or codec states; upright if none or zero is stated.

    Raises:
        ValueError: see `Orientation`.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return Orientation(a, b, c, d) if any((a, b, c, d)) else Orientation(_ONE, 0, 0, _ONE)
    return Orientation(_ONE, 0, 0, _ONE)
