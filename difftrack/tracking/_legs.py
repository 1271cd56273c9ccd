"""Points of one frame, matched in the frames that share a chunk with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence import MatchingParams, point_probabilities, query_tokens, read_rows
from difftrack.geometry import TokenGrid
from difftrack.tracking._chunks import ChunkDescriptors, Reading
from difftrack.tracking._fusion import FramePair, fused_frame_pairs

__all__ = ["Leg", "legs_from"]


@dataclass(frozen=True, slots=True)
class Leg:
    """Points of a source frame in one target frame, or in several; on the CPU."""

    points_xy_token: Float[Tensor, "*frame point xy"]
    margin: Float[Tensor, "*frame point"]
    """How far the match stands out: 1 - (best probability more than one token away) / best; 1 in the source frame."""
    cycle_error_token: Float[Tensor, "*frame point"]
    """Distance in tokens between a point and the match of its match; 0 in the source frame."""

    def then(self, onward: "Leg") -> "Leg":
        """Chain with a leg that starts where this one ends: errors add up, and the weaker match counts."""
        margin = torch.minimum(self.margin, onward.margin)
        return Leg(onward.points_xy_token, margin, self.cycle_error_token + onward.cycle_error_token)

    def __getitem__(self, points: slice) -> "Leg":
        return Leg(self.points_xy_token[points], self.margin[points], self.cycle_error_token[points])

    @staticmethod
    def stack(legs: Sequence["Leg"]) -> "Leg":
        """Put legs of the same points to several frames together."""
        return Leg(
            torch.stack([leg.points_xy_token for leg in legs]),
            torch.stack([leg.margin for leg in legs]),
            torch.stack([leg.cycle_error_token for leg in legs]),
        )


def legs_from(
    chunks: Sequence[ChunkDescriptors], starts: Mapping[int, Float[Tensor, "_ xy"]], reading: Reading
) -> dict[int, dict[int, Leg]]:
    """Match points of some frames in all frames that share a chunk with them.

    Args:
        chunks: Descriptors; each chunk is read at most once.
        starts: Points in token coordinates, by the video frame that they lie in.
        reading: What to read, and how to match and fuse it.

    Returns:
        Legs by source frame and target frame, the source frame itself included.
    """
    legs = {source: {source: _stay(points)} for source, points in starts.items()}
    matching = reading.params.matching_params
    for pair in fused_frame_pairs(chunks, starts, reading):
        legs[pair.source][pair.target] = _read_leg(starts[pair.source], pair, reading.grid, matching)
    return legs


def _stay(points_xy_token: Tensor) -> Leg:
    certain = torch.ones(len(points_xy_token))
    return Leg(points_xy_token, certain, torch.zeros_like(certain))


def _read_leg(points_xy_token: Tensor, pair: FramePair, grid: TokenGrid, matching: MatchingParams) -> Leg:
    asked = points_xy_token.to(pair.there.device)
    here = query_tokens(asked, rows=grid.rows, cols=grid.cols, params=matching)
    rows = pair.there[here.tokens]
    match = read_rows(rows, here, cols=grid.cols, params=matching)
    nearest = query_tokens(asked, rows=grid.rows, cols=grid.cols, params=replace(matching, read_out="rows"))
    margin = _margin(point_probabilities(pair.there[nearest.tokens], nearest, matching), cols=grid.cols)
    there = query_tokens(match.points_xy_token, rows=grid.rows, cols=grid.cols, params=matching)
    returned = read_rows(pair.back[there.tokens], there, cols=grid.cols, params=matching)
    cycle_error = (returned.points_xy_token - asked).norm(dim=-1)
    return Leg(match.points_xy_token.cpu(), margin.cpu(), cycle_error.cpu())


def _margin(probabilities: Float[Tensor, "point token"], *, cols: int) -> Float[Tensor, " point"]:
    """Compare the best token with the best of those that are not its neighbours, which share the same motion."""
    best, token = probabilities.max(dim=-1)
    every = torch.arange(probabilities.shape[-1], device=token.device)
    near_row = (every // cols - (token // cols)[:, None]).abs() <= 1
    near_col = (every % cols - (token % cols)[:, None]).abs() <= 1
    rival = probabilities.masked_fill(near_row & near_col, 0.0).amax(dim=-1)
    return 1.0 - rival / best.clamp(min=torch.finfo(best.dtype).tiny)
