"""Detect cuts between the scenes of a video, and blank frames.

A cut is a lasting change of the whole picture from one frame to the next that stands out from the neighbouring changes.
Colours are compared in a grid of blocks. A moving object is therefore not a cut, and neither is fast motion, which
changes every frame alike. A flash, or any other change that ends after one frame, is not a cut either. Dissolves, whose
frames change gradually, are not detected. A fade to black ends a scene in its last, almost black frames. In a frame of
one colour no point is visible.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

__all__ = ["SceneFinder", "Scenes", "find_scenes"]

BLOCKS = 3
"""Number of rows and of columns of the blocks whose colours are compared."""
BINS = (8, 4, 8)
"""Histogram bins for hue, saturation and value, in each block."""
LONGEST_SIDE = 240
"""Larger frames are first shrunk to this length of their longer side, in pixels."""
CUT = 0.47
"""Minimum change at a cut. The smallest change at 702 joins of two clips is 0.52 (python -m benchmarks.scenes)."""
STANDS_OUT = 0.15
"""Minimum excess of the change at a cut over the changes before and after it. Fast motion may reach 0.6 but lasts."""
BLANK = 2.0
"""Maximum standard deviation of each channel in a blank frame, in grey levels (0-255)."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """The scenes of a video, and its blank frames.

    Raises:
        ValueError: the first scene does not start at frame 0, or scenes are not in order.
    """

    starts: tuple[int, ...]
    """First frame of every scene, starting with 0."""
    blank: Bool[np.ndarray, " frame"]
    """True for frames of one colour."""

    def __post_init__(self) -> None:
        if self.starts[:1] != (0,) or sorted(set(self.starts)) != list(self.starts):
            raise ValueError(
                f"scenes start at {list(self.starts)}; the first must be 0, and each must be later than the previous"
            )

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frame after each cut."""
        return self.starts[1:]

    def shared_with(self, frames: Int[np.ndarray, " point"]) -> Bool[np.ndarray, "frame point"]:
        """Return which frames show the same scene as each of the given frames; a blank frame shows no scene."""
        scene = np.searchsorted(self.starts, np.arange(len(self.blank)), side="right")
        same = scene[:, None] == scene[frames]
        shared: np.ndarray = same & ~self.blank[:, None] & ~self.blank[frames]
        return shared


def find_scenes(frames: Iterable[UInt8[np.ndarray, "row col rgb"]], *, cuts: bool = True) -> Scenes:
    """Find cuts and blank frames.

    Args:
        frames: The video, as an array or an iterator.
        cuts: False treats the video as one scene and only detects blank frames.
    """
    finder = SceneFinder(cuts=cuts)
    for frame in frames:
        finder.add(frame)
    return finder.scenes()


class SceneFinder:
    """Detects cuts and blank frames in a stream of frames; stores the colours of two frames.

    Args:
        cuts: False treats the video as one scene and only detects blank frames.
    """

    def __init__(self, *, cuts: bool = True) -> None:
        self._cuts = cuts
        self._last: list[Float[np.ndarray, "block bin"]] = []
        self._blank: list[bool] = []
        self._change = [0.0]
        """Change of each frame from the previous frame."""
        self._change_over_two = [0.0, 0.0]
        """Change of each frame from the frame before the previous one."""

    def add(self, frame: UInt8[np.ndarray, "row col rgb"]) -> None:
        """Process the next frame."""
        small = _shrunk(frame)
        self._blank.append(bool(small.reshape(-1, 3).std(axis=0).max() <= BLANK))
        if not self._cuts:
            return
        colours = _colours(small)
        if self._last:
            self._change.append(_change(self._last[-1], colours))
        if len(self._last) == 2:
            self._change_over_two.append(_change(self._last[0], colours))
        self._last = [*self._last[-1:], colours]

    def scenes(self) -> Scenes:
        """Return the scenes in the frames processed so far."""
        found = [t for t in range(1, len(self._blank)) if self._is_cut(t)] if self._cuts else []
        return Scenes(starts=(0, *found), blank=np.array(self._blank, dtype=bool))

    def _is_cut(self, t: int) -> bool:
        """Whether a scene starts at frame t."""
        num_frames, change = len(self._blank), self._change
        after = change[t + 1] if t + 1 < num_frames else 0.0
        if change[t] < CUT or change[t] < max(change[t - 1], after) + STANDS_OUT:
            return False
        lasts_after = t + 1 == num_frames or self._change_over_two[t + 1] >= CUT
        lasted_before = t == 1 or self._change_over_two[t] >= CUT
        return lasts_after and lasted_before


def _change(here: Float[np.ndarray, "block bin"], there: Float[np.ndarray, "block bin"]) -> float:
    """Return the share of pixels whose colour no longer occurs in their block."""
    return float(1 - np.minimum(here, there).sum(axis=1).mean())


def _colours(frame: UInt8[np.ndarray, "row col rgb"]) -> Float[np.ndarray, "block bin"]:
    """Compute the histogram of colours in every block, as shares."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
    blocks = [block for band in np.array_split(hsv, BLOCKS, axis=0) for block in np.array_split(band, BLOCKS, axis=1)]
    counts = [
        cv2.calcHist([np.ascontiguousarray(block)], [0, 1, 2], None, list(BINS), [0, 180, 0, 256, 0, 256]).ravel()
        for block in blocks
        if block.size
    ]
    return np.stack([count / count.sum() for count in counts])


def _shrunk(frame: UInt8[np.ndarray, "row col rgb"]) -> UInt8[np.ndarray, "row col rgb"]:
    """Shrink a large frame."""
    factor = LONGEST_SIDE / max(frame.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(frame)
    size = (max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor)))
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA))
