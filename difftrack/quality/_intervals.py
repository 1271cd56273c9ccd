"""How sure a mean over a few videos is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from difftrack.quality._errors import QualityError

__all__ = ["Interval", "mean_with_interval"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the interval around it; None where there is one value only."""

    mean: float
    low: float | None
    high: float | None


def mean_with_interval(
    values: Float[np.ndarray, " video"], *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Give a mean and its percentile bootstrap interval (Efron 1979).

    Args:
        values: One per video; differences, where two ways of sampling are compared from the same seeds.
        confidence: Share of resampled means inside the interval.
        num_resamples: How often the videos are drawn with replacement.
        seed: Of the draws.

    Raises:
        QualityError: there is no value.
    """
    if not len(values):
        raise QualityError("there is no value to take the mean of")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, None, None)
    drawn = np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))
    outside = (1 - confidence) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [outside, 1 - outside])
    return Interval(mean, float(low), float(high))
