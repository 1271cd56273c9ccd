"""PCK: the share of keypoints found within the thresholds of JHMDB and BADJA."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["BADJA_THRESHOLD", "JHMDB_THRESHOLDS", "badja_scales", "jhmdb_scales", "pck"]

JHMDB_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the scale that `jhmdb_scales` gives; papers report 0.1 and 0.2."""
BADJA_THRESHOLD = 0.2
"""Share of the scale that `badja_scales` gives."""
_BOX_SHARE = 0.6


def pck(
    found_xy_px: Float[np.ndarray, "frame point xy"],
    true_xy_px: Float[np.ndarray, "frame point xy"],
    known: Bool[np.ndarray, "frame point"],
    scales_px: Float[np.ndarray, " frame"],
    *,
    threshold: float,
    average: Literal["all", "points"] = "all",
) -> float:
    """Compute the share of keypoints at most `threshold * scale` from the truth, the first frame left out.

    Args:
        found_xy_px: (x, y) in pixels; a position that is not a number is wrong.
        true_xy_px: (x, y) in pixels.
        known: Where the truth is annotated (and visible).
        scales_px: Scale of every frame.
        threshold: Share of the scale.
        average: `all` pools all keypoints; `points` averages over the points of the skeleton, as JHMDB's evaluation
            does.

    Returns:
        The share, 0 to 1; NaN if nothing is annotated.

    Raises:
        ValueError: shapes do not agree.
    """
    if not found_xy_px.shape == true_xy_px.shape == (*known.shape, 2) or len(scales_px) != len(known):
        raise ValueError(
            f"positions are {found_xy_px.shape} and {true_xy_px.shape}, known is {known.shape}, scales are "
            f"{scales_px.shape}; expected [frame, point, 2] twice, [frame, point], [frame]"
        )
    counted = known.copy()
    counted[0] = False
    distance = np.linalg.norm(found_xy_px - true_xy_px, axis=-1)
    with np.errstate(invalid="ignore"):
        right = (distance <= threshold * scales_px[:, None]) & counted
    if average == "all":
        return float(right.sum() / counted.sum()) if counted.any() else float("nan")
    per_point = counted.sum(axis=0)
    shares = right.sum(axis=0)[per_point > 0] / per_point[per_point > 0]
    return float(shares.mean()) if len(shares) else float("nan")


def jhmdb_scales(
    true_xy_px: Float[np.ndarray, "frame point xy"], known: Bool[np.ndarray, "frame point"]
) -> Float[np.ndarray, " frame"]:
    """Compute 0.6 times the diagonal of the box around a frame's true keypoints, in pixels; NaN if none is known.

    Source: the usual evaluation of label propagation on JHMDB (Li et al. 2019, arXiv 1909.11895; Jabri et al. 2020),
    PCK@τ = share of distances of at most τ times this.
    """
    spread = np.where(known[..., None], true_xy_px, np.nan)
    scales = np.full(len(known), np.nan)
    for frame in np.flatnonzero(known.any(axis=1)):
        low, high = np.nanmin(spread[frame], axis=0), np.nanmax(spread[frame], axis=0)
        scales[frame] = _BOX_SHARE * float(np.linalg.norm(high - low))
    return scales


def badja_scales(masks: Bool[np.ndarray, "frame row col"]) -> Float[np.ndarray, " frame"]:
    """Compute the square root of the animal's mask area in every frame, in pixels.

    Source: Biggs et al. 2018 (arXiv 1811.05804), PCK at 0.2 times this.
    """
    scales: np.ndarray = np.sqrt(masks.sum(axis=(1, 2)).astype(np.float64))
    return scales
