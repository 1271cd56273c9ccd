"""What matching gives: positions with their probability, margin and cycle error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Matches", "check_source_frame", "given_matches", "join_matches", "stack_heads"]


@dataclass(frozen=True, slots=True)
class Matches:
    """Where query points are in other latent frames; in the source frame they are where they were asked for.

    The leading axes are [latent_frame], or [head, latent_frame] where every head matches alone.
    """

    points_xy_token: Float[Tensor, "*axes point xy"]
    """Token coordinates (`MatchingParams.token_origin`); see `tokens_to_points`."""
    probability: Float[Tensor, "*axes point"]
    """Probability of the best token; 1 in the source frame."""
    margin: Float[Tensor, "*axes point"]
    """Best less second-best probability; 1 in the source frame."""
    cycle_error_token: Float[Tensor, "*axes point"] | None = None
    """Distance in tokens between a point and the match of its match, back in the source frame; None if not asked."""


def check_source_frame(source_frame: int, num_latent_frames: int) -> None:
    """Raise ValueError unless the latent frame exists."""
    if not 0 <= source_frame < num_latent_frames:
        raise ValueError(f"source_frame is {source_frame}; it must lie in 0...{num_latent_frames - 1}")


def given_matches(points_xy_token: Float[Tensor, "point xy"], *, cycle: bool = False) -> Matches:
    """Say that points are where they were asked for: the matches of the source frame in itself."""
    certain = torch.ones(1, len(points_xy_token), device=points_xy_token.device)
    return Matches(points_xy_token.float()[None], certain, certain, torch.zeros_like(certain) if cycle else None)


def join_matches(parts: Sequence[Matches]) -> Matches:
    """Join matches of successive latent frames."""
    return _combine(parts, torch.cat)


def stack_heads(parts: Sequence[Matches]) -> Matches:
    """Give matches of single heads a head axis."""
    return _combine(parts, torch.stack)


def _combine(parts: Sequence[Matches], combine: Callable[[list[Tensor]], Tensor]) -> Matches:
    errors = [part.cycle_error_token for part in parts if part.cycle_error_token is not None]
    return Matches(
        points_xy_token=combine([part.points_xy_token for part in parts]),
        probability=combine([part.probability for part in parts]),
        margin=combine([part.margin for part in parts]),
        cycle_error_token=combine(errors) if errors else None,
    )
