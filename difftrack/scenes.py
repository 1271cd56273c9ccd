"""Where a video cuts from one scene to another, and which of its frames show nothing.

A cut is a change of the whole picture from one frame to the next that lasts, and that stands out from the changes
beside it. Colours are compared in a grid of blocks. So neither a moving object is a cut nor fast motion, which changes
every frame alike. A flash is none either, nor anything else that is over after one frame. A dissolve, whose frames
change little by little, is not looked for. A fade to black ends a scene in its last, nearly black frames. In frames of
one colour no point is visible.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

__all__ = ["SceneFinder", "Scenes", "find_scenes"]

BLOCKS = 3
"""Rows and columns of blocks whose colours are compared."""
BINS = (8, 4, 8)
"""Of hue, saturation and value, in each block."""
LONGEST_SIDE = 240
"""Larger frames are made smaller first, in pixels."""
CUT = 0.47
"""Least change at a cut. Of 702 joints of two different clips the smallest is 0.52 (python -m benchmarks.scenes)."""
STANDS_OUT = 0.15
"""By so much a cut changes more than the frames before and after it do. Fast motion may reach 0.6, but goes on."""
BLANK = 2.0
"""A frame is blank where no channel varies by more than this, one standard deviation of 256 grey levels."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """Which frames of a video belong together.

    Raises:
        ValueError: the first scene does not begin at frame 0, or scenes are not in order.
    """

    starts: tuple[int, ...]
    """First frame of every scene; 0 is the first of them."""
    blank: Bool[np.ndarray, " frame"]
    """Frames of one colour, in which nothing can be seen."""

    def __post_init__(self) -> None:
        if self.starts[:1] != (0,) or sorted(set(self.starts)) != list(self.starts):
            raise ValueError(
                f"scenes start at {list(self.starts)}; wanted: 0 first, and each later than the one before"
            )

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frame after each cut."""
        return self.starts[1:]

    def shared_with(self, frames: Int[np.ndarray, " point"]) -> Bool[np.ndarray, "frame point"]:
        """Tell which frames show the scene of each of these; a blank frame shows no scene, not even its own."""
        scene = np.searchsorted(self.starts, np.arange(len(self.blank)), side="right")
        same = scene[:, None] == scene[frames]
        shared: np.ndarray = same & ~self.blank[:, None] & ~self.blank[frames]
        return shared


def find_scenes(frames: Iterable[UInt8[np.ndarray, "row col rgb"]], *, cuts: bool = True) -> Scenes:
    """Find cuts and blank frames.

    Args:
        frames: The video, an array or one by one.
        cuts: False takes the video for one scene and looks for blank frames alone.
    """
    finder = SceneFinder(cuts=cuts)
    for frame in frames:
        finder.add(frame)
    return finder.scenes()


class SceneFinder:
    """Looks for cuts and blank frames in a video that passes by; holds the colours of two frames.

    Args:
        cuts: False takes the video for one scene and looks for blank frames alone.
    """

    def __init__(self, *, cuts: bool = True) -> None:
        self._cuts = cuts
        self._last: list[Float[np.ndarray, "block bin"]] = []
        self._blank: list[bool] = []
        self._change = [0.0]
        """Of each frame from the one before it."""
        self._change_over_two = [0.0, 0.0]
        """Of each frame from the one before that."""

    def add(self, frame: UInt8[np.ndarray, "row col rgb"]) -> None:
        """Look at the next frame."""
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
        """What was found in the frames that passed."""
        found = [t for t in range(1, len(self._blank)) if self._is_cut(t)] if self._cuts else []
        return Scenes(starts=(0, *found), blank=np.array(self._blank, dtype=bool))

    def _is_cut(self, t: int) -> bool:
        """Tell whether frame t begins a scene."""
        num_frames, change = len(self._blank), self._change
        after = change[t + 1] if t + 1 < num_frames else 0.0
        if change[t] < CUT or change[t] < max(change[t - 1], after) + STANDS_OUT:
            return False
        lasts_after = t + 1 == num_frames or self._change_over_two[t + 1] >= CUT
        lasted_before = t == 1 or self._change_over_two[t] >= CUT
        return lasts_after and lasted_before


def _change(here: Float[np.ndarray, "block bin"], there: Float[np.ndarray, "block bin"]) -> float:
    """Give the share of pixels whose colour has gone from its block."""
    return float(1 - np.minimum(here, there).sum(axis=1).mean())


def _colours(frame: UInt8[np.ndarray, "row col rgb"]) -> Float[np.ndarray, "block bin"]:
    """Count colours in every block, as shares."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
    blocks = [block for band in np.array_split(hsv, BLOCKS, axis=0) for block in np.array_split(band, BLOCKS, axis=1)]
    counts = [
        cv2.calcHist([np.ascontiguousarray(block)], [0, 1, 2], None, list(BINS), [0, 180, 0, 256, 0, 256]).ravel()
        for block in blocks
        if block.size
    ]
    return np.stack([count / count.sum() for count in counts])


def _shrunk(frame: UInt8[np.ndarray, "row col rgb"]) -> UInt8[np.ndarray, "row col rgb"]:
    """Make a large frame smaller."""
    factor = LONGEST_SIDE / max(frame.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(frame)
    size = (max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor)))
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA))
