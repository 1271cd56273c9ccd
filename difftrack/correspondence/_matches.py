"""Results of matching: positions with probability, margin and cycle error."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence._params import MatchingParams

__all__ = ["Matches", "check_latent_frame", "given_readings", "stack_heads", "unpack", "without_uniform"]

_UNIFORM = 1e-5
"""Relative rounding error above 1 / num_tokens up to which a row still counts as uniform."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Positions of query points in other latent frames; in the source frame, the query points themselves.

    The leading axes are [latent_frame], or [head, latent_frame] where every head matches alone.
    """

    points_xy_token: Float[Tensor, "*axes point xy"]
    """Token coordinates (`MatchingParams.token_origin`); see `tokens_to_points`. NaN where all probabilities are equal,
    so the position is unknown.
    """
    probability: Float[Tensor, "*axes point"]
    """Probability of the best token; 1 in the source frame."""
    margin: Float[Tensor, "*axes point"]
    """Best less second-best probability; 1 in the source frame."""
    cycle_error_token: Float[Tensor, "*axes point"] | None = None
    """Distance in tokens between a point and the match of its match, back in the source frame; None if not asked."""


def check_latent_frame(latent_frame: int, num_latent_frames: int, *, name: str = "source_frame") -> None:
    """Raise ValueError unless the latent frame exists."""
    if not 0 <= latent_frame < num_latent_frames:
        raise ValueError(f"{name} is {latent_frame}; it must lie in 0...{num_latent_frames - 1}")


def unpack(
    readings: Float[Tensor, "*axes point 4"], cycle_error_token: Float[Tensor, "*axes point"] | None = None
) -> Matches:
    """Name the four numbers read for every point: x, y, probability, margin."""
    return Matches(readings[..., :2], readings[..., 2], readings[..., 3], cycle_error_token)


def given_readings(points_xy_token: Float[Tensor, "point xy"], *axes: int) -> Float[Tensor, "*axes point 4"]:
    """Initialise matches: every point keeps its query position in all frames.

    Args:
        points_xy_token: Points, on the device of the result: a copy would wait for the GPU.
        axes: Sizes of the leading axes.
    """
    return torch.nn.functional.pad(points_xy_token, (0, 2), value=1.0).repeat(*axes, 1, 1)


def without_uniform(
    readings: Float[Tensor, "*axes point 4"], num_tokens: int, params: MatchingParams
) -> Float[Tensor, "*axes point 4"]:
    """Set the position to NaN, in place, where all tokens are equally probable; otherwise it would be the first token.

    With `second_softmax` nothing changes: it makes every row nearly uniform, and the released code has no such rule.
    """
    if params.second_softmax or num_tokens < 2:
        return readings
    best, margin = readings[..., 2], readings[..., 3]
    uniform = (best * num_tokens <= 1 + _UNIFORM) & (margin * num_tokens <= _UNIFORM)
    readings[..., :2].masked_fill_(uniform[..., None], float("nan"))
    best.masked_fill_(uniform, 1 / num_tokens)
    margin.masked_fill_(uniform, 0.0)
    return readings


def stack_heads(parts: Sequence[Matches]) -> Matches:
    """Give matches of single heads a head axis."""
    errors = [part.cycle_error_token for part in parts if part.cycle_error_token is not None]
    return Matches(
        points_xy_token=torch.stack([part.points_xy_token for part in parts]),
        probability=torch.stack([part.probability for part in parts]),
        margin=torch.stack([part.margin for part in parts]),
        cycle_error_token=torch.stack(errors) if errors else None,
    )
