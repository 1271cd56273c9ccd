"""Visible or not: the probability that a point is seen, and the tests on it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.tracking._legs import Leg
from difftrack.tracking._params import TrackParams

__all__ = ["CALIBRATION", "confidence_of", "visible_of"]

CALIBRATION = {"constant": 0.81, "closure": 2.41, "own_error": 0.41, "error_beside": 0.81}
"""Coefficients of a logistic regression, found by `python -m benchmarks.visibility fit`; see docs/tracking.md."""


def confidence_of(legs: Leg) -> Float[Tensor, "frame point"]:
    """Give the probability that a point is seen where it was matched.

        logit = a + closure * (b - c * log2(1 + e_t) - d * (log2(1 + e_{t-1}) + log2(1 + e_{t+1})) / 2)

    e is the cycle error in tokens, here and in the frames beside, and closure the share of all tokens of the two frames
    that lead back: a match that does not lead back says little where few do. The probability falls with every e.
    """
    error = torch.log2(1 + legs.cycle_error_token)
    padded = torch.cat([error[:1], error, error[-1:]])
    beside = (padded[:-2] + padded[2:]) / 2
    by = CALIBRATION
    slope = by["closure"] - by["own_error"] * error - by["error_beside"] * beside
    return torch.sigmoid(by["constant"] + legs.closure * slope)


def visible_of(legs: Leg, confidence: Float[Tensor, "frame point"], params: TrackParams) -> Bool[Tensor, "frame point"]:
    """Call a point visible where the params' tests hold; everywhere if visibility is not predicted."""
    if not params.predicts_visibility:
        return torch.ones_like(confidence, dtype=torch.bool)
    limits = params.visibility
    visible = (confidence >= limits.min_confidence) & (legs.margin >= limits.min_margin)
    if limits.max_cycle_error_token is not None:
        visible &= legs.cycle_error_token <= limits.max_cycle_error_token
    return visible
