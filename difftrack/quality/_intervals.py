"""Confidence intervals of a mean over a few videos."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from difftrack.quality._errors import QualityError

__all__ = ["Interval", "mean_with_interval"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its confidence interval; the bounds are None for a single value."""

    mean: float
    low: float | None
    high: float | None


def mean_with_interval(
    values: Float[np.ndarray, " video"], *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Compute a mean and its percentile bootstrap interval (Efron 1979).

    Args:
        values: One value per video; pass differences to compare two ways of sampling with the same seeds.
        confidence: Share of resampled means inside the interval.
        num_resamples: Number of times the videos are drawn with replacement.
        seed: Seed of the random draws.

    Raises:
        QualityError: `values` is empty.
    """
    if not len(values):
        raise QualityError("values is empty; a mean needs at least one value")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, None, None)
    drawn = np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))
    outside = (1 - confidence) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [outside, 1 - outside])
    return Interval(mean, float(low), float(high))
