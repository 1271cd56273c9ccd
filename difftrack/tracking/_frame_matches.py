"""Matches points of one frame in the frames that share a chunk with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence import (
    DisplacementCandidates,
    QueryTokens,
    point_probabilities,
    query_tokens,
    read_moves,
    read_rows,
    without_best,
)
from difftrack.geometry import TokenGrid
from difftrack.tracking._chunks import ChunkDescriptors, FusionInputs
from difftrack.tracking._fusion import FramePair, fused_frame_pairs
from difftrack.tracking._params import TrackParams

__all__ = ["FrameMatches", "match_frames"]


@dataclass(frozen=True, slots=True)
class FrameMatches:
    """Matches of a source frame's points in one or several target frames; on the CPU."""

    points_xy_token: Float[Tensor, "*frame point xy"]
    margin: Float[Tensor, "*frame point"]
    """Distinctness of the match: 1 - (best probability more than one token away) / best; 1 in the source frame."""
    cycle_error_token: Float[Tensor, "*frame point"]
    """Distance in tokens between a point and the match of its match; 0 in the source frame."""
    candidates_xy_token: Float[Tensor, "*frame point candidate xy"]
    """Positions that the tokens around the point vote for; the point itself in the source frame."""
    share: Float[Tensor, "*frame point candidate"]
    """Share of votes for each position."""
    sharpness: Float[Tensor, "*frame point"]
    """Median margin of all tokens of the source frame, a measure of how well the two frames match; 1 in the source
    frame.
    """

    def then(self, onward: "FrameMatches") -> "FrameMatches":
        """Chain with a match that starts where this one ends: errors add up, margins take the minimum."""
        return replace(
            onward,
            margin=torch.minimum(self.margin, onward.margin),
            cycle_error_token=self.cycle_error_token + onward.cycle_error_token,
            sharpness=torch.minimum(self.sharpness, onward.sharpness),
        )

    def __getitem__(self, points: slice | Tensor) -> "FrameMatches":
        return FrameMatches(*(part[points] for part in self._parts))

    @staticmethod
    def stack(matches: Sequence["FrameMatches"]) -> "FrameMatches":
        """Stack matches of the same points in several frames."""
        return FrameMatches(*(torch.stack(parts) for parts in zip(*(match._parts for match in matches), strict=True)))

    @staticmethod
    def join(matches: Sequence["FrameMatches"], order: Int[Tensor, " point"]) -> "FrameMatches":
        """Join stacked matches of different points, and reorder the points."""
        return FrameMatches(
            *(torch.cat(parts, dim=1)[:, order] for parts in zip(*(match._parts for match in matches), strict=True))
        )

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, part.name) for part in fields(self))


def match_frames(
    chunks: Sequence[ChunkDescriptors], starts: Mapping[int, Float[Tensor, "_ xy"]], fusion: FusionInputs
) -> dict[int, dict[int, FrameMatches]]:
    """Match points of some frames in all frames that share a chunk with them.

    Args:
        chunks: Descriptors; each chunk is read at most once.
        starts: Video frame -> its points in token coordinates.
        fusion: Which descriptors to read, and how to match and fuse them.

    Returns:
        FrameMatches for every source and target frame, including the source frame itself.
    """
    params = fusion.params
    matches = {source: {source: _stay(points, params)} for source, points in starts.items()}
    for pair in fused_frame_pairs(chunks, starts, fusion):
        matches[pair.source][pair.target] = _read_matches(starts[pair.source], pair, fusion.grid, params)
    return matches


def _stay(points_xy_token: Tensor, params: TrackParams) -> FrameMatches:
    certain = torch.ones(len(points_xy_token), params.num_candidates)
    candidates = points_xy_token[:, None].expand(-1, params.num_candidates, -1)
    return FrameMatches(
        points_xy_token, certain[:, 0], torch.zeros(len(points_xy_token)), candidates, certain, certain[:, 0]
    )


def _read_matches(points_xy_token: Tensor, pair: FramePair, grid: TokenGrid, params: TrackParams) -> FrameMatches:
    matching = params.matching
    asked = points_xy_token.to(pair.there.device)
    here = query_tokens(asked, rows=grid.rows, cols=grid.cols, params=matching)
    rows = pair.there[here.tokens]
    moves = _read(rows, here, grid, params)
    found = moves.leading_xy_token
    nearest = query_tokens(asked, rows=grid.rows, cols=grid.cols, params=replace(matching, read_out="rows"))
    margin = _margin(point_probabilities(pair.there[nearest.tokens], nearest, matching), cols=grid.cols)
    there = query_tokens(found, rows=grid.rows, cols=grid.cols, params=matching)
    returned = read_rows(pair.back[there.tokens], there, cols=grid.cols, params=matching)
    cycle_error = (returned.points_xy_token - asked).norm(dim=-1)
    sharpness = _margin(pair.there, cols=grid.cols).median().expand_as(margin)
    return FrameMatches(
        *(part.cpu() for part in (found, margin, cycle_error, moves.points_xy_token, moves.share, sharpness))
    )


def _read(
    rows: Float[Tensor, "query_token token"], points: QueryTokens, grid: TokenGrid, params: TrackParams
) -> DisplacementCandidates:
    """Read all candidates; only the match if no path is chosen."""
    matching = params.matching
    if params.num_candidates > 1:
        return read_moves(rows, points, cols=grid.cols, params=matching, matches_per_token=params.matches_per_token)
    match = read_rows(rows, points, cols=grid.cols, params=matching)
    return DisplacementCandidates(match.points_xy_token[:, None], torch.ones_like(match.probability)[:, None])


def _margin(probabilities: Float[Tensor, "point token"], *, cols: int) -> Float[Tensor, " point"]:
    """Compare the best token with the best non-neighbour, since neighbours share its motion."""
    best = probabilities.amax(dim=-1)
    rival = without_best(probabilities, cols=cols, distance=1).amax(dim=-1)
    return 1.0 - rival / best.clamp(min=torch.finfo(best.dtype).tiny)
