"""TAP-Vid's metrics (position accuracy, Jaccard, occlusion accuracy) and survival."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from difftrack.metrics._params import CORRECTED, ScoringParams

__all__ = ["THRESHOLDS_PX", "TapvidMetrics", "survival_rate", "tapvid_metrics"]

THRESHOLDS_PX = (1, 2, 4, 8, 16)
"""TAP-Vid's distance thresholds, in pixels of a 256x256 image."""


@dataclass(frozen=True, slots=True)
class TapvidMetrics:
    """Metrics for each video, as fractions; NaN if a video has nothing to evaluate."""

    occlusion_accuracy: Float[np.ndarray, "*video"]
    points_within: Float[np.ndarray, "threshold *video"]
    """Share of visible points whose error is below each of `THRESHOLDS_PX`."""
    jaccard: Float[np.ndarray, "threshold *video"]

    @property
    def average_points_within(self) -> Float[np.ndarray, "*video"]:
        """Mean of `points_within` over the thresholds, called delta_avg."""
        return np.asarray(self.points_within.mean(axis=0))

    @property
    def average_jaccard(self) -> Float[np.ndarray, "*video"]:
        """Mean Jaccard over the thresholds, called AJ."""
        return np.asarray(self.jaccard.mean(axis=0))

    def as_dict(self) -> dict[str, Float[np.ndarray, "*video"]]:
        """Return the metrics under the names of the TAP-Vid benchmark."""
        within = {f"pts_within_{px}": self.points_within[i] for i, px in enumerate(THRESHOLDS_PX)}
        jaccard = {f"jaccard_{px}": self.jaccard[i] for i, px in enumerate(THRESHOLDS_PX)}
        return {
            "occlusion_accuracy": self.occlusion_accuracy,
            **within,
            **jaccard,
            "average_jaccard": self.average_jaccard,
            "average_pts_within_thresh": self.average_points_within,
        }


def tapvid_metrics(
    predicted_xy_px: Float[np.ndarray, "*video frame point xy"],
    predicted_visible: Bool[np.ndarray, "*video frame point"],
    true_xy_px: Float[np.ndarray, "*video frame point xy"],
    true_visible: Bool[np.ndarray, "*video frame point"],
    query_frames: Int[np.ndarray, "*video point"],
    *,
    query_mode: Literal["first", "strided"] = "first",
    params: ScoringParams = CORRECTED,
) -> TapvidMetrics:
    """Evaluate the tracks of one video, or of a batch of videos of one shape.

    Args:
        predicted_xy_px: Predicted (x, y), in pixels of a 256x256 image.
        predicted_visible: True where the tracker reports the point as visible.
        true_xy_px: True (x, y), in pixels of a 256x256 image.
        true_visible: True where the point is visible.
        query_frames: Query frame of each point.
        query_mode: Evaluate the frames after the query frame (`first`), or all frames except the query frame
            (`strided`).
        params: Only `occlusion_accuracy` is used.

    Source:
        Doersch et al. 2022, TAP-Vid (arXiv 2211.03726).
    """
    num_frames = true_visible.shape[-2]
    frame = np.arange(num_frames)[:, None]
    query_frame = query_frames[..., None, :]
    evaluated = frame > query_frame if query_mode == "first" else frame != query_frame
    squared = np.square(predicted_xy_px - true_xy_px).sum(axis=-1)
    num_visible = _count(true_visible & evaluated)
    points_within, jaccard = [], []
    for threshold in THRESHOLDS_PX:
        within = squared < threshold**2
        right = within & true_visible
        claimed_wrongly = predicted_visible & ~right
        points_within.append(_ratio(_count(right & evaluated), num_visible))
        found = _count(right & predicted_visible & evaluated)
        jaccard.append(_ratio(found, num_visible + _count(claimed_wrongly & evaluated)))
    num_evaluated = _count(evaluated & np.ones_like(true_visible))
    if params.occlusion_accuracy == "per_batch":
        num_evaluated = np.full_like(num_evaluated, num_evaluated.sum())
    same = _count((predicted_visible == true_visible) & evaluated)
    return TapvidMetrics(
        occlusion_accuracy=_ratio(same, num_evaluated),
        points_within=np.stack(points_within),
        jaccard=np.stack(jaccard),
    )


def survival_rate(
    predicted_xy_px: Float[np.ndarray, "frame point xy"],
    true_xy_px: Float[np.ndarray, "frame point xy"],
    true_visible: Bool[np.ndarray, "frame point"],
    query_frames: Int[np.ndarray, " point"],
    *,
    failure_px: float = 50.0,
) -> float:
    """Compute the mean share of the frames after the query for which a track survives.

    A track fails in the first visible frame in which its error exceeds `failure_px` or its position is NaN. A failed
    track does not recover.

    Args:
        predicted_xy_px: Predicted (x, y), in pixels of a 256x256 image.
        true_xy_px: True (x, y), in the same pixels.
        true_visible: True where the point is visible.
        query_frames: Query frame of each point; points queried in the last frame are not counted.
        failure_px: Largest error of a track that has not failed.

    Returns:
        A fraction; NaN if no point has a frame after its query frame.

    Source:
        Zheng et al. 2023, PointOdyssey (arXiv 2307.15055), at 50 px of 256x256.
    """
    num_frames = len(true_visible)
    frame = np.arange(num_frames)[:, None]
    distance = np.linalg.norm(predicted_xy_px - true_xy_px, axis=-1)
    failed = ~(distance <= failure_px) & true_visible & (frame > query_frames)
    first_failure = np.where(failed.any(axis=0), failed.argmax(axis=0), num_frames)
    to_survive = num_frames - 1 - query_frames
    counted = to_survive > 0
    if not counted.any():
        return float("nan")
    return float(np.mean((first_failure - 1 - query_frames)[counted] / to_survive[counted]))


def _count(flags: Bool[np.ndarray, "*video frame point"]) -> Int[np.ndarray, "*video"]:
    return np.asarray(flags.sum(axis=(-2, -1)))


def _ratio(part: np.ndarray, whole: np.ndarray | np.integer) -> Float[np.ndarray, "*video"]:
    """Divide; NaN where the denominator is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0))
