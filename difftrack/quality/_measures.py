"""Measure motion and its consistency with optical flow and a classical tracker.

Lengths are in pixels of a frame whose shorter side is 256, so that videos of different sizes are comparable.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.quality._errors import QualityError

__all__ = ["VideoMeasures", "measure_video"]

_SHORTER_SIDE = 256.0
_FASTEST = 0.05
"""Share of a frame's pixels, the fastest ones, whose speed measures its motion."""
_MOVING_PX = 6.0
"""Speed, in pixels per frame, above which a pair of frames counts as moving."""
_MOVING_PAIRS = 4 / 16
"""Share of frames in which a dynamic video moves; the count is rounded."""
_GRID = 24
"""Number of points along each axis that are tracked forward and back."""
_LOST_PX = 32.0
"""Error of a point that the tracker loses, and the largest error of any point."""


@dataclass(frozen=True, slots=True)
class VideoMeasures:
    """Measures of one video that need no network. Only the first two increase with motion as such."""

    motion_px: float
    """Speed of the fastest 5 % of the pixels, in pixels per frame; mean over pairs of frames."""
    dynamic_degree: float
    """1 if that speed exceeds 6 px in a quarter of the frames, else 0: VBench's rule with this room's optical flow."""
    warped_error: float
    """Mean squared difference, in [0, 1], between a frame and the next frame warped onto it by the flow, where forward
    and backward flow agree. Lower is more consistent; 0 for a still video."""
    cycle_error_px: float
    """Distance from its start at which a point ends when it is tracked to the last frame and back; mean over the points
    of a grid that stay inside the image. Lower is more consistent. It is at most 32 px, which is also a lost point's
    error."""
    sharpness: float
    """Variance of the Laplacian of luminance (0 ... 255), mean over frames; higher is sharper."""


def measure_video(frames: UInt8[np.ndarray, "frame row col rgb"]) -> VideoMeasures:
    """Measure one video.

    Args:
        frames: At least two frames; use 8 frames per second for numbers comparable with VBench's.

    Raises:
        QualityError: there are fewer than two frames, or a side is shorter than 32 px.

    Source:
        The rule for the dynamic degree is VBench's (Huang et al. 2024, arXiv 2311.17982). VBench uses RAFT; this room
        uses DIS optical flow (Kroeger et al. 2016). The warped error is that of Lai et al. 2018 (arXiv 1808.00449),
        with occlusion detected by forward-backward disagreement as in Sundaram et al. 2010. Points are tracked with
        pyramidal Lucas-Kanade.
    """
    num_frames, height, width, _ = frames.shape
    if num_frames < 2 or min(height, width) < 32:
        raise QualityError(
            f"the video has {num_frames} frames of {width}x{height} px; at least 2 frames of 32x32 px are needed"
        )
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    scale = _SHORTER_SIDE / min(height, width)
    speeds, errors = [], []
    for i, (here, there) in enumerate(pairwise(grey)):
        forward, backward = _flow(here, there), _flow(there, here)
        speeds.append(scale * _fastest(forward))
        errors.append(_warped_error(frames[i], frames[i + 1], forward, backward))
    moving = sum(speed > _MOVING_PX for speed in speeds)
    return VideoMeasures(
        motion_px=float(np.mean(speeds)),
        dynamic_degree=float(moving >= max(round(_MOVING_PAIRS * num_frames), 1)),
        warped_error=float(np.mean(errors)),
        cycle_error_px=_cycle_error(grey, scale),
        sharpness=float(np.mean([cv2.Laplacian(frame, cv2.CV_64F).var() for frame in grey])),
    )


def _flow(here: UInt8[np.ndarray, "row col"], there: UInt8[np.ndarray, "row col"]) -> Float32[np.ndarray, "row col xy"]:
    """Compute the displacement of each pixel, in pixels."""
    found = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
        here, there, np.zeros((*here.shape, 2), np.float32)
    )
    return np.asarray(found)


def _fastest(flow: Float32[np.ndarray, "row col xy"]) -> float:
    """Mean speed of the fastest pixels."""
    speeds = np.linalg.norm(flow, axis=-1).ravel()
    count = max(round(_FASTEST * len(speeds)), 1)
    return float(np.partition(speeds, -count)[-count:].mean())


def _warped_error(
    here: UInt8[np.ndarray, "row col rgb"],
    there: UInt8[np.ndarray, "row col rgb"],
    forward: Float32[np.ndarray, "row col xy"],
    backward: Float32[np.ndarray, "row col xy"],
) -> float:
    """Mean squared difference over the pixels visible in both frames; over all pixels if none is visible in both."""
    height, width = forward.shape[:2]
    at = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32) + forward
    x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
    back = cv2.remap(backward, x, y, cv2.INTER_LINEAR)
    warped = cv2.remap(np.ascontiguousarray(there), x, y, cv2.INTER_LINEAR)
    seen = _agree(forward, back) & ((at >= 0) & (at <= (width - 1, height - 1))).all(axis=-1)
    squared = ((here.astype(np.float64) - warped) / 255) ** 2
    return float(squared[seen].mean() if seen.any() else squared.mean())


def _agree(
    forward: Float32[np.ndarray, "row col xy"], back: Float32[np.ndarray, "row col xy"]
) -> Bool[np.ndarray, "row col"]:
    """Whether forward and backward flow cancel, within a tolerance that grows with the length of the flow."""
    apart = ((forward + back) ** 2).sum(axis=-1)
    agree: np.ndarray = apart <= 0.01 * ((forward**2).sum(axis=-1) + (back**2).sum(axis=-1)) + 0.5
    return agree


def _cycle_error(grey: list[UInt8[np.ndarray, "row col"]], scale: float) -> float:
    """Track a grid of points to the last frame and back; return the mean distance from their starts.

    Points that leave the image are not counted; if all points leave it, the result is the error of a lost point.
    """
    height, width = grey[0].shape
    start = points = _grid(height, width)
    followed, stayed = np.ones((2, len(start)), dtype=bool)
    for here, there in pairwise([*grey, *grey[-2::-1]]):
        moved, found, _ = cv2.calcOpticalFlowPyrLK(here, there, points, np.empty_like(points), winSize=(15, 15))
        points = np.asarray(moved, dtype=np.float32)
        stayed &= ~followed | ((points >= 0) & (points <= (width - 1, height - 1))).all(axis=-1)
        followed &= np.ravel(found) > 0
    distances = np.minimum(scale * np.linalg.norm(points - start, axis=-1), _LOST_PX)
    errors = np.where(followed, distances, _LOST_PX)[stayed]
    return float(errors.mean()) if len(errors) else _LOST_PX


def _grid(height: int, width: int) -> Float32[np.ndarray, "point xy"]:
    """Centres of equal grid cells, in OpenCV's pixel indices."""
    x, y = ((np.arange(_GRID) + 0.5) * side / _GRID - 0.5 for side in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
