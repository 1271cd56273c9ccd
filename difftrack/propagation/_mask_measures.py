"""DAVIS's measures: J and F of masks, and their summary over a sequence.

Source: Perazzi et al. 2016 (CVPR), and the official evaluation of DAVIS 2016 and 2017. Fractions, never percent.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

__all__ = [
    "BOUND_TH",
    "MaskScores",
    "MeasureSummary",
    "boundary_f",
    "davis_scores",
    "region_similarity",
    "summarize",
]

BOUND_TH = 0.008
"""Maximum distance of matching contours, as a share of the picture's diagonal."""
_RECALL_TH = 0.5
_NUM_PARTS = 4
_ROUNDING = 1e-3
"""Tolerance for distances, which are roots of whole numbers in single precision."""


@dataclass(frozen=True, slots=True)
class MeasureSummary:
    """Summary of a measure over the frames of a sequence."""

    mean: float
    recall: float
    """Share of frames above one half."""
    decay: float
    """Mean over the first quarter of the frames minus that over the last."""


@dataclass(frozen=True, slots=True)
class MaskScores:
    """J and F of one object in one sequence."""

    object_number: int
    region: MeasureSummary
    """J: intersection over union."""
    boundary: MeasureSummary
    """F: precision and recall of the contour."""

    @property
    def j_and_f(self) -> float:
        """J&F: the mean of the two means."""
        return (self.region.mean + self.boundary.mean) / 2


def region_similarity(found: Bool[np.ndarray, "row col"], truth: Bool[np.ndarray, "row col"]) -> float:
    """Compute J = |found and truth| / |found or truth|; 1 if both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def boundary_f(
    found: Bool[np.ndarray, "row col"], truth: Bool[np.ndarray, "row col"], *, bound_th: float = BOUND_TH
) -> float:
    """Compute F = 2 P R / (P + R) of the contours' precision P and recall R.

    A contour pixel counts as met where the other contour, dilated by a disc, covers it. The disc's radius is `bound_th`
    times the picture's diagonal, rounded up to whole pixels; from 1 on, `bound_th` is the radius itself. If only one
    mask has a contour, F is 0; if neither has, 1. A contour pixel differs from its neighbour to the right, below, or
    both, so an object that touches the border has no contour there.
    """
    radius = bound_th if bound_th >= 1 else float(np.ceil(bound_th * np.hypot(*truth.shape)))
    edges = [_contour(mask) for mask in (found, truth)]
    num_found, num_truth = (int(edge.sum()) for edge in edges)
    if not num_found or not num_truth:
        return float(num_found == num_truth)
    edges = _cropped(edges)
    reached = [_near(edge, radius) for edge in edges]
    precision = int((edges[0] & reached[1]).sum()) / num_found
    recall = int((edges[1] & reached[0]).sum()) / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def summarize(values: Float[np.ndarray, " frame"]) -> MeasureSummary:
    """Summarize a measure over the frames of a sequence.

    The quarters overlap by one frame, as in the official evaluation, which cuts at round(1 + q (frames - 1) / 4). (The
    official one stores the cuts in 8 bits, which fails for sequences of more than 256 frames; this one does not.)

    Raises:
        ValueError: there are no frames.
    """
    if len(values) == 0:
        raise ValueError(
            "there are no frames to summarize; a sequence needs at least three, of which the middle ones count"
        )
    cuts = np.round(np.linspace(1, len(values), _NUM_PARTS + 1) + 1e-10).astype(int) - 1
    first, last = values[cuts[0] : cuts[1] + 1], values[cuts[-2] : cuts[-1] + 1]
    return MeasureSummary(
        mean=float(values.mean()),
        recall=float((values > _RECALL_TH).mean()),
        decay=float(first.mean() - last.mean()),
    )


def davis_scores(
    found: UInt8[np.ndarray, "frame row col"],
    truth: UInt8[np.ndarray, "frame row col"],
    *,
    bound_th: float = BOUND_TH,
) -> list[MaskScores]:
    """Score masks of one sequence in DAVIS's semi-supervised protocol: J and F of every object of the first frame.

    The first frame, which is given, and the last are left out, as DAVIS does. The score of a data set is the mean over
    all objects of all sequences.

    Args:
        found: The number of the object in each pixel; 0 is the background.
        truth: Annotated objects in the same format; 255 is void if other objects exist, as in DAVIS 2017.
        bound_th: As in `boundary_f`.

    Returns:
        Scores of the objects that the first true mask shows, in the order of their numbers.

    Raises:
        ValueError: the masks are of different sizes or lengths, there are fewer than three frames, or the first true
            mask is empty.
    """
    if found.shape != truth.shape or len(truth) < 3:
        raise ValueError(
            f"masks are {list(found.shape)} and the truth is {list(truth.shape)}, [frame, row, col]; expected equal "
            "shapes and at least three frames, since the first and the last are left out"
        )
    numbers = [int(number) for number in np.unique(truth[0]) if number]
    numbers = [number for number in numbers if number != 255] or numbers
    if not numbers:
        raise ValueError("the first true mask is empty; expected at least one object")
    scores = []
    for number in numbers:
        pairs = [(mine == number, true == number) for mine, true in zip(found[1:-1], truth[1:-1], strict=True)]
        region = np.array([region_similarity(*pair) for pair in pairs])
        boundary = np.array([boundary_f(*pair, bound_th=bound_th) for pair in pairs])
        scores.append(MaskScores(number, summarize(region), summarize(boundary)))
    return scores


def _contour(mask: Bool[np.ndarray, "row col"]) -> Bool[np.ndarray, "row col"]:
    """Mark pixels that differ from the one to the right, below, or both; the border is repeated outside."""
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = beyond[:-1, 1:], beyond[1:, :-1], beyond[1:, 1:]
    marked: np.ndarray = (mask != right) | (mask != below) | (mask != diagonal)
    return marked


def _cropped(edges: list[np.ndarray]) -> list[np.ndarray]:
    """Crop rows and columns outside both contours; distances between their pixels do not change."""
    either = edges[0] | edges[1]
    rows, cols = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    return [np.ascontiguousarray(edge[window]) for edge in edges]


def _near(edge: Bool[np.ndarray, "row col"], radius: float) -> Bool[np.ndarray, "row col"]:
    """Dilate by a disc, with exact distances from the contour, which is much faster than pixel by pixel."""
    away = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near: np.ndarray = away <= radius + _ROUNDING
    return near
