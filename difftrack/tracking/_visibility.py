"""Predicts visibility: the probability that a point is seen, and the tests on it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.tracking._frame_matches import FrameMatches
from difftrack.tracking._params import TrackParams

__all__ = ["CALIBRATION", "confidence_of", "evidence_of", "visible_of"]

CALIBRATION = {"constant": 0.15, "sharpness": 4.13, "error": 2.0, "lasting_error": 3.56}
"""Coefficients of a logistic regression, found by `python -m benchmarks.visibility fit`; see docs/tracking.md."""


def confidence_of(matches: FrameMatches) -> Float[Tensor, "frame point"]:
    """Compute the probability that a point is seen where it was matched.

        logit = a + b * s - s ** 3 * (c * log2(1 + e_t) + d * log2(1 + min(e_{t-1}, e_t, e_{t+1})))

    e is the cycle error in tokens, of this frame and the least over it and its neighbours. s is the sharpness of the
    matches of all tokens of the two frames: a large cycle error says little where matches are blurred. The probability
    falls with every e.
    """
    constant, *by = CALIBRATION.values()
    inputs = evidence_of(matches.sharpness, matches.cycle_error_token)
    return torch.sigmoid(constant + inputs @ torch.tensor(by))


def evidence_of(
    sharpness: Float[Tensor, "frame point"], cycle_error_token: Float[Tensor, "frame point"]
) -> Float[Tensor, "frame point 3"]:
    """Compute the calibration's inputs: sharpness, this frame's error, and the part that neighbouring frames share."""
    error = torch.log2(1 + cycle_error_token)
    padded = torch.cat([error[:1], error, error[-1:]])
    lasting = torch.stack([padded[:-2], error, padded[2:]]).amin(dim=0)
    return torch.stack([sharpness, -(sharpness**3) * error, -(sharpness**3) * lasting], dim=-1)


def visible_of(
    matches: FrameMatches, confidence: Float[Tensor, "frame point"], params: TrackParams
) -> Bool[Tensor, "frame point"]:
    """Mark a point as visible where the params' tests hold; everywhere if visibility is not predicted."""
    if not params.visibility.predict:
        return torch.ones_like(confidence, dtype=torch.bool)
    limits = params.visibility
    visible = (confidence >= limits.min_confidence) & (matches.margin >= limits.min_margin)
    if limits.max_cycle_error_token is not None:
        visible &= matches.cycle_error_token <= limits.max_cycle_error_token
    return visible
