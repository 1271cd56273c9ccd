"""Average scores over clips, combine them, and rank layers and steps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from difftrack.metrics._params import CORRECTED, ScoringParams

__all__ = ["ClipMean", "harmonic_mean", "mean_over_clips", "rank_cells"]


@dataclass(frozen=True, slots=True)
class ClipMean:
    """A mean over clips, with the number of clips that have no value."""

    mean: Float[np.ndarray, "*grid"]
    """NaN where no clip has a value."""
    num_clips: int
    num_empty: Int[np.ndarray, "*grid"]
    """Number of clips whose value is NaN; the mean leaves them out."""


def mean_over_clips(values: Float[np.ndarray, "clip *grid"], *, params: ScoringParams = CORRECTED) -> ClipMean:
    """Average over clips without NaN values; with `nan_cells: spread`, one NaN makes the mean NaN.

    Raises:
        ValueError: there is no clip.
    """
    if not len(values):
        raise ValueError("values contains 0 clips; a mean over clips needs at least one")
    empty = np.isnan(values)
    num_empty = np.asarray(empty.sum(axis=0))
    num_full = len(values) - num_empty
    total = np.asarray(np.where(empty, 0.0, values).sum(axis=0, dtype=np.float64))
    mean = np.divide(total, num_full, out=np.full(total.shape, np.nan), where=num_full > 0)
    if params.nan_cells == "spread":
        mean = np.where(num_empty > 0, np.nan, mean)
    return ClipMean(mean=np.asarray(mean), num_clips=len(values), num_empty=num_empty)


def harmonic_mean(
    accuracy: Float[np.ndarray, "*grid"],
    confidence: Float[np.ndarray, "*grid"],
    attention: Float[np.ndarray, "*grid"],
    *,
    params: ScoringParams = CORRECTED,
) -> Float[np.ndarray, "*grid"]:
    """Combine three scores, each min-max normalised over the whole grid: H = 3 / (1/a + 1/c + 1/s).

    A cell at the minimum of any of the three scores is 0, so H depends on the sweep over which it is computed. A score
    that is equal in all cells makes H 0 everywhere.

    Args:
        accuracy: Matching accuracy over layer and step (any axes, the same for all three).
        confidence: Cross-frame confidence.
        attention: Cross-frame attention.
        params: `nan_cells: ignored` computes the bounds without NaN cells and leaves those cells NaN; `spread` makes H
            0 everywhere if one cell is NaN, as the released code does.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 3.2.
    """
    normalised = [_normalise(table) for table in (accuracy, confidence, attention)]
    with np.errstate(divide="ignore"):
        combined = 3 / sum(1 / table for table in normalised)
    if params.nan_cells == "spread":
        spread = np.isnan(combined).any()
        return np.zeros_like(combined) if spread else np.asarray(combined)
    return np.asarray(combined)


def rank_cells(scores: Float[np.ndarray, "*grid"], *, num: int, worst: bool = False) -> list[tuple[int, ...]]:
    """Return the indices of the `num` best cells, best first, or of the worst, worst first; NaN cells are left out."""
    flat = np.ravel(scores)
    order = np.argsort(flat if worst else -flat, kind="stable")
    ranked = [index for index in order if not np.isnan(flat[index])][:num]
    return [tuple(int(i) for i in np.unravel_index(index, np.shape(scores))) for index in ranked]


def _normalise(table: Float[np.ndarray, "*grid"]) -> Float[np.ndarray, "*grid"]:
    """Min-max normalise over the cells that are not NaN; 0 if all are equal."""
    values = np.asarray(table, dtype=np.float64)
    if np.isnan(values).all():
        return values
    lowest, highest = np.nanmin(values), np.nanmax(values)
    if lowest == highest:
        return np.where(np.isnan(values), np.nan, 0.0)
    return (values - lowest) / (highest - lowest)
