"""Clips with masks of objects, and clips with keypoints, as people annotated them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.datasets._clips import Clip
from difftrack.datasets._errors import DatasetError

__all__ = ["KeypointVideo", "MaskedVideo"]


@dataclass(frozen=True, slots=True, eq=False)
class MaskedVideo:
    """A clip with a mask of its objects in some frames.

    Raises:
        DatasetError: masks and frames are of different sizes or numbers, or the first mask is missing or empty.
    """

    clip: Clip
    masks: UInt8[np.ndarray, "frame row col"]
    """The number of the object in each pixel; 0 is the background, and frames without annotation."""
    annotated: Bool[np.ndarray, " frame"]
    """Frames that have a mask."""

    def __post_init__(self) -> None:
        if self.masks.shape != self.clip.frames.shape[:3] or self.annotated.shape != self.masks.shape[:1]:
            raise DatasetError(
                f"clip {self.clip.name} has frames {self.clip.frames.shape[:3]} and masks {self.masks.shape}, of which "
                f"{self.annotated.shape} are told apart; wanted: a mask of the same size for every frame"
            )
        if not self.annotated[0] or not self.masks[0].any():
            raise DatasetError(f"clip {self.clip.name}: the mask of the first frame is missing or empty")


@dataclass(frozen=True, slots=True, eq=False)
class KeypointVideo:
    """A clip with keypoints in some frames.

    Raises:
        DatasetError: shapes do not agree, a known position is not finite, or the first frame has no keypoint.
    """

    clip: Clip
    points_xy_px: Float32[np.ndarray, "frame point xy"]
    """(x, y) in pixels; meaningless where not known."""
    known: Bool[np.ndarray, "frame point"]
    """Where a keypoint is annotated and visible."""
    masks: Bool[np.ndarray, "frame row col"] | None = None
    """Where the animal is (BADJA), empty in frames without annotation; None where the data set has no masks."""

    def __post_init__(self) -> None:
        if self.points_xy_px.shape != (*self.known.shape, 2) or len(self.known) != self.clip.num_frames:
            raise DatasetError(
                f"clip {self.clip.name} has {self.clip.num_frames} frames, keypoints {self.points_xy_px.shape} and "
                f"{self.known.shape} that are known; wanted: [frame, point, 2] and [frame, point]"
            )
        bad = np.argwhere(self.known & ~np.isfinite(self.points_xy_px).all(axis=-1))
        if len(bad):
            raise DatasetError(f"clip {self.clip.name}: keypoint {bad[0][1]} is not a number in frame {bad[0][0]}")
        if not self.known[0].any():
            raise DatasetError(f"clip {self.clip.name}: no keypoint is known in the first frame, so none can be given")
        if self.masks is not None and self.masks.shape != self.clip.frames.shape[:3]:
            raise DatasetError(f"clip {self.clip.name}: masks are {self.masks.shape}, not of the size of the frames")
