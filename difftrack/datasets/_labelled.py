"""Clips with annotated object masks, and clips with annotated keypoints."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.datasets._clips import Clip
from difftrack.datasets._errors import DatasetError

__all__ = ["KeypointVideo", "MaskedVideo"]


@dataclass(frozen=True, slots=True, eq=False)
class MaskedVideo:
    """A clip with object masks in some frames.

    Raises:
        DatasetError: masks and frames differ in size or number, or the first mask is missing or empty.
    """

    clip: Clip
    masks: UInt8[np.ndarray, "frame row col"]
    """The number of the object in each pixel; 0 for the background and for frames without annotation."""
    annotated: Bool[np.ndarray, " frame"]
    """True for frames that have a mask."""

    def __post_init__(self) -> None:
        if self.masks.shape != self.clip.frames.shape[:3] or self.annotated.shape != self.masks.shape[:1]:
            raise DatasetError(
                f"clip {self.clip.name} has frames {self.clip.frames.shape[:3]}, masks {self.masks.shape} and "
                f"annotated {self.annotated.shape}; expected a mask of the same size for every frame"
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
    """(x, y) in pixels; undefined where not known."""
    known: Bool[np.ndarray, "frame point"]
    """True where a keypoint is annotated and visible."""
    masks: Bool[np.ndarray, "frame row col"] | None = None
    """True where the animal is (BADJA), False in frames without annotation; None if the data set has no masks."""

    def __post_init__(self) -> None:
        if self.points_xy_px.shape != (*self.known.shape, 2) or len(self.known) != self.clip.num_frames:
            raise DatasetError(
                f"clip {self.clip.name} has {self.clip.num_frames} frames, keypoints {self.points_xy_px.shape} and "
                f"known {self.known.shape}; expected [frame, point, 2] and [frame, point]"
            )
        bad = np.argwhere(self.known & ~np.isfinite(self.points_xy_px).all(axis=-1))
        if len(bad):
            raise DatasetError(f"clip {self.clip.name}: keypoint {bad[0][1]} is not a number in frame {bad[0][0]}")
        if not self.known[0].any():
            raise DatasetError(
                f"clip {self.clip.name}: no keypoint is known in the first frame, so none can be tracked"
            )
        if self.masks is not None and self.masks.shape != self.clip.frames.shape[:3]:
            raise DatasetError(
                f"clip {self.clip.name}: masks are {self.masks.shape}, which is not the size of the frames"
            )
