"""Visible or not: from how far a match stands out, and whether it leads back to where it came from."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.tracking._params import TrackParams

__all__ = ["confidence_of", "visible_of"]


def visible_of(
    margin: Float[Tensor, "frame point"], cycle_error_token: Float[Tensor, "frame point"], params: TrackParams
) -> Bool[Tensor, "frame point"]:
    """Call a point visible where its match stands out and leads back; everywhere if visibility is not predicted."""
    if not params.predicts_visibility:
        return torch.ones_like(margin, dtype=torch.bool)
    limits = params.visibility
    return (cycle_error_token <= limits.max_cycle_error_token) & (margin >= limits.min_margin)


def confidence_of(
    margin: Float[Tensor, "frame point"], cycle_error_token: Float[Tensor, "frame point"], params: TrackParams
) -> Float[Tensor, "frame point"]:
    """Give margin * 2 ** -(cycle error / its threshold) ** 2, in 0 ... 1."""
    return margin * torch.exp2(-((cycle_error_token / params.visibility.max_cycle_error_token) ** 2))
