"""Turns chunks of descriptors into tracks over the whole clip."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.correspondence import points_to_tokens, tokens_to_points
from difftrack.geometry import TokenGrid
from difftrack.scenes import Scenes
from difftrack.tracking._anchor_chaining import chained_matches
from difftrack.tracking._chunks import ChunkDescriptors, FusionInputs, Sources
from difftrack.tracking._frame_matches import FrameMatches
from difftrack.tracking._params import TrackParams
from difftrack.tracking._predictions import PredictedTracks
from difftrack.tracking._smoothing import jitter_of, smooth_tracks
from difftrack.tracking._visibility import confidence_of, visible_of
from difftrack.tracking._viterbi import typical_steps, viterbi_paths

__all__ = ["decide_tracks", "match_clip", "track_clip"]

SURE_TOKEN = 1.0
"""Matches up to this cycle error are reliable: the path keeps them, and they give the point's speed and are smoothed.
"""
SHARP_ENOUGH = {"path": 0.35, "smoothing": 0.65}
"""Minimum sharpness of frames whose steps have a cost, and of those whose positions are smoothed; chosen on tuning
clips, see docs/tracking.md. Blurred wrong matches agree from frame to frame as well as right ones do.
"""
CALM_TOKEN = 0.08
"""A point whose reliable positions jitter by at most this counts as sharply matched in every frame; chosen in the same
way.
"""
_PATH_BYTES = 48 << 20
"""Candidate positions of the points whose paths are chosen together; a few times as much is in use meanwhile."""
JITTER_TOKEN = 0.1
"""Minimum error, in tokens, that smoothing assumes for sub-token positions; chosen on tuning clips."""


def track_clip(
    chunks: Sequence[ChunkDescriptors],
    query_points: Float[np.ndarray, "point 3"],
    *,
    sources: Sources,
    grid: TokenGrid,
    params: TrackParams,
    scenes: Scenes | None = None,
) -> PredictedTracks:
    """Track query points through all frames of the chunks, forward and backward in time.

    A query on an anchor frame is matched directly in every other frame. A query on any other frame is matched directly
    in the frames that share a chunk with it, and in the rest through the nearest anchor: query frame, anchor, frame.

    Args:
        chunks: Descriptors of the clip, as `chunk_schedule` cut it; together they hold frames 0 ... T-1.
        query_points: (frame, x, y), pixels of the image that the backbone saw; see `geometry.rescale_points`.
        sources: (step, layer) pairs to fuse.
        grid: Tokens of a chunk; its rows, columns and stride matter.
        params: How to match, fuse, smooth and predict visibility.
        scenes: First frames of scenes, and blank frames (`scenes.find_scenes`); None treats the clip as one scene.

    Returns:
        Tracks in the order of `query_points`, in pixels of the same image.

    Raises:
        ValueError: a query point is not finite or lies outside the clip, a frame is in no chunk, or the descriptors do
            not fit.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 4.1. Visibility, queries after frame 0, fusion by probability and
        sub-token positions are ours.
    """
    return decide_tracks(
        match_clip(chunks, query_points, sources=sources, grid=grid, params=params),
        query_points,
        grid=grid,
        params=params,
        scenes=scenes,
    )


def match_clip(
    chunks: Sequence[ChunkDescriptors],
    query_points: Float[np.ndarray, "point 3"],
    *,
    sources: Sources,
    grid: TokenGrid,
    params: TrackParams,
) -> FrameMatches:
    """Match query points in all frames without choosing positions; arguments and errors as in `track_clip`."""
    num_frames = _check_coverage(chunks, sources)
    _check_queries(query_points, num_frames=num_frames, grid=grid)
    given_px, query_frames = _parts_of(query_points)
    starts = points_to_tokens(given_px, stride_px=float(grid.stride_px), params=params.matching)
    return _matches_in_all_frames(
        chunks, starts, query_frames, FusionInputs(sources, grid, params), num_frames=num_frames
    )


def decide_tracks(
    matches: FrameMatches,
    query_points: Float[np.ndarray, "point 3"],
    *,
    grid: TokenGrid,
    params: TrackParams,
    scenes: Scenes | None = None,
) -> PredictedTracks:
    """Choose one position of every point in every frame, and predict its visibility.

    Args:
        matches: Result of `match_clip` for these points.
        query_points: As in `track_clip`.
        grid: As in `track_clip`.
        params: As in `track_clip`.
        scenes: As in `track_clip`.
    """
    matching, stride_px = params.matching, float(grid.stride_px)
    given_px, query_frames = _parts_of(query_points)
    if scenes is not None and params.cuts == "ignore":
        scenes = replace(scenes, starts=(0,))
    confidence = confidence_of(matches)
    visible = visible_of(matches, confidence, params)
    if scenes is not None:
        visible &= torch.from_numpy(scenes.shared_with(query_frames.numpy())[: len(visible)])
    points_xy_token = _likeliest(matches, params) if params.num_candidates > 1 else matches.points_xy_token
    points_px = tokens_to_points(points_xy_token, stride_px=stride_px, params=matching)
    points_px[query_frames, torch.arange(len(given_px))] = given_px
    if params.smoothing_radius:
        points_px = smooth_tracks(
            points_px,
            visible & _sure(matches) & _trusted(matches, "smoothing"),
            radius=params.smoothing_radius,
            limit=params.smoothing_limit_token * stride_px,
            jitter=JITTER_TOKEN * stride_px,
            fixed_frames=query_frames,
        )
    tracks = PredictedTracks(points_px.numpy(), visible.numpy(), confidence.numpy())
    if params.convention == "released":
        return tracks
    return tracks.seen_in(height=grid.height, width=grid.width, query_frames=query_frames.numpy(), scenes=scenes)


def _likeliest(matches: FrameMatches, params: TrackParams) -> Tensor:
    """Choose a path among the candidates in frames with large cycle errors; elsewhere the match stays.

    Some points at a time, because candidates in all frames of a long video are most of what tracking holds in memory.
    """
    num_frames, num_points, num_candidates = matches.share.shape
    at_once = max(1, _PATH_BYTES // (num_frames * num_candidates * 2 * matches.share.element_size()))
    parts = [slice(start, start + at_once) for start in range(0, max(1, num_points), at_once)]
    return torch.cat([_likeliest_paths(matches[:, part], params) for part in parts], dim=1)


def _likeliest_paths(matches: FrameMatches, params: TrackParams) -> Tensor:
    """Choose the paths of some points.

    Steps of a fast point cost in units of its typical step. Steps to or from frames that give no evidence for their
    neighbours cost nothing.
    """
    limit, sure, trusted = params.motion_limit_token, _sure(matches), _trusted(matches, "path")
    steps = typical_steps(matches.points_xy_token, sure, limit=limit)
    costs = params.motion_cost / steps.clamp(min=1.0) ** 2 * (trusted[1:] & trusted[:-1])
    candidates = torch.where(sure[..., None, None], matches.points_xy_token[:, :, None], matches.candidates_xy_token)
    return viterbi_paths(candidates, matches.share, motion_cost=costs, limit=limit)


def _sure(matches: FrameMatches) -> Bool[Tensor, "frame point"]:
    return matches.cycle_error_token <= SURE_TOKEN


def _trusted(matches: FrameMatches, purpose: Literal["path", "smoothing"]) -> Bool[Tensor, "frame point"]:
    """Return where a position is evidence for its neighbouring frames: if the frame or the track is sharp."""
    jitter, known = jitter_of(matches.points_xy_token, _sure(matches))
    return (matches.sharpness >= SHARP_ENOUGH[purpose]) | (known & (jitter <= CALM_TOKEN))


def _parts_of(query_points: Float[np.ndarray, "point 3"]) -> tuple[Tensor, Tensor]:
    """Split queries into positions and frames."""
    return torch.tensor(query_points[:, 1:], dtype=torch.float32), torch.tensor(query_points[:, 0], dtype=torch.int64)


def _matches_in_all_frames(
    chunks: Sequence[ChunkDescriptors], starts: Tensor, query_frames: Tensor, fusion: FusionInputs, *, num_frames: int
) -> FrameMatches:
    """Match every point in every frame, [frame, point], in the order of the points."""
    frames = sorted(set(query_frames.tolist()))
    points_of = {frame: (query_frames == frame).nonzero()[:, 0] for frame in frames}
    starts_of = {frame: starts[points] for frame, points in points_of.items()}
    chains = chained_matches(chunks, starts_of, fusion, num_frames=num_frames)
    if len(frames) == 1:  # the points are in their own order
        return chains[frames[0]]
    matches = FrameMatches.unset(num_frames, len(starts), fusion.params.num_candidates)
    for frame, points in points_of.items():
        matches[:, points] = chains.pop(frame)  # free what is already in its place
    return matches


def _check_coverage(chunks: Sequence[ChunkDescriptors], sources: Sources) -> int:
    """Count the frames of the clip; the chunks of every anchor must hold them all."""
    if not chunks or not sources:
        raise ValueError(f"got {len(chunks)} chunk(s) and {len(sources)} (step, layer); expected at least one of each")
    num_frames = 1 + max(frame for chunk in chunks for frame in chunk.frames)
    for anchor in {chunk.anchor for chunk in chunks}:
        held = {frame for chunk in chunks if chunk.anchor == anchor for frame in chunk.frames}
        if missing := sorted(set(range(num_frames)) - held):
            raise ValueError(f"no chunk with anchor {anchor} holds frames {missing[:10]}; extract the clip again")
    return num_frames


def _check_queries(query_points: np.ndarray, *, num_frames: int, grid: TokenGrid) -> None:
    """Refuse impossible queries; half a token outside is allowed for clicks on the border."""
    if len(query_points) == 0:
        raise ValueError("there are no query points; give at least one")
    slack = grid.stride_px / 2
    for index, (frame, x, y) in enumerate(query_points.tolist()):
        where = f"query point {index} is (frame {frame:g}, x {x:g}, y {y:g})"
        if not np.isfinite([frame, x, y]).all():
            raise ValueError(f"{where}; all three must be finite")
        if frame != int(frame) or not 0 <= frame < num_frames:
            raise ValueError(f"{where}; its frame must be one of 0 ... {num_frames - 1}")
        if not (-slack <= x <= grid.width + slack and -slack <= y <= grid.height + slack):
            raise ValueError(f"{where}; it must lie inside the frame of {grid.width} x {grid.height} px")
