"""What matching gives: positions with their probability, margin and cycle error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Matches", "given_matches", "join_matches", "stack_heads"]


@dataclass(frozen=True, slots=True)
class Matches:
    """Where query points are in every latent frame; in the source frame they are where they were asked for."""

    points_xy_token: Float[Tensor, "*head latent_frame point xy"]
    """Token coordinates (`MatchingParams.token_origin`); see `tokens_to_points`."""
    probability: Float[Tensor, "*head latent_frame point"]
    """Probability of the best token; 1 in the source frame."""
    margin: Float[Tensor, "*head latent_frame point"]
    """Best less second-best probability; 1 in the source frame."""
    cycle_error_token: Float[Tensor, "*head latent_frame point"] | None = None
    """Distance in tokens between a point and the match of its match, back in the source frame; None if not asked."""


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
