"""Matches points of one frame in the frames that share a chunk with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
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

__all__ = ["FrameMatches", "MatchedFrames", "match_frames"]


Where = int | list[int] | tuple[slice, slice | Tensor]
"""A frame, frames, or the points of some frames."""


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

    @staticmethod
    def unset(num_frames: int, num_points: int, num_candidates: int) -> "FrameMatches":
        """Allocate matches in all frames of a clip; the values are arbitrary until they are set.

        A single allocation per field keeps memory small: thousands of small tensors, which live on between large
        temporary ones, fragment the heap, and stacking them takes the same memory again.
        """
        shape = (num_frames, num_points)
        candidates = torch.empty(*shape, num_candidates)
        return FrameMatches(
            *(torch.empty(*shape, 2), torch.empty(shape), torch.empty(shape)),
            *(torch.empty(*shape, num_candidates, 2), candidates, torch.empty(shape)),
        )

    def __getitem__(self, where: Where) -> "FrameMatches":
        return FrameMatches(*(part[where] for part in self._parts))

    def __setitem__(self, where: Where, matches: "FrameMatches") -> None:
        for own, other in zip(self._parts, matches._parts, strict=True):
            own[where] = other

    def copy(self) -> "FrameMatches":
        """Copy all values."""
        return FrameMatches(*(part.clone() for part in self._parts))

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True, slots=True)
class MatchedFrames:
    """Matches of a source frame's points in those frames of a clip that share a chunk with it."""

    in_clip: FrameMatches
    """[frame, point] for all frames of the clip; only those of `frames` are set."""
    frames: list[int]

    def add(self, frame: int, matches: FrameMatches) -> None:
        """Set the matches in one frame."""
        self.in_clip[frame] = matches
        self.frames.append(frame)


def match_frames(
    chunks: Sequence[ChunkDescriptors],
    starts: Mapping[int, Float[Tensor, "_ xy"]],
    fusion: FusionInputs,
    *,
    num_frames: int,
) -> dict[int, MatchedFrames]:
    """Match points of some frames in all frames that share a chunk with them.

    Args:
        chunks: Descriptors; each chunk is read at most once.
        starts: Video frame -> its points in token coordinates.
        fusion: Which descriptors to read, and how to match and fuse them.
        num_frames: Frames of the clip.

    Returns:
        Source frame -> its matches, including those in the source frame itself.
    """
    params = fusion.params
    found = {
        source: MatchedFrames(FrameMatches.unset(num_frames, len(points), params.num_candidates), [])
        for source, points in starts.items()
    }
    for source, points in starts.items():
        found[source].add(source, _stay(points, params))
    for pair in fused_frame_pairs(chunks, starts, fusion):
        found[pair.source].add(pair.target, _read_matches(starts[pair.source], pair, fusion.grid, params))
    return found


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
