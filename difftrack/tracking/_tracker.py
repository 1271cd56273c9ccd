"""From chunks of descriptors to tracks over the whole clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.correspondence import points_to_tokens, tokens_to_points
from difftrack.tracking._chunks import ChunkDescriptors, Sources
from difftrack.tracking._legs import Leg, legs_from
from difftrack.tracking._params import TrackParams
from difftrack.tracking._smoothing import smooth_tracks
from difftrack.tracking._visibility import confidence_of, visible_of

__all__ = ["PredictedTracks", "track_clip"]


@dataclass(frozen=True, slots=True)
class PredictedTracks:
    """Tracks of query points over a clip."""

    points_xy_px: Float[np.ndarray, "frame point xy"]
    """float32, in pixels of the image that the backbone saw; the query itself in the query's frame."""
    visible: Bool[np.ndarray, "frame point"]
    confidence: Float[np.ndarray, "frame point"]
    """float32, 0 ... 1: how far the match stands out, halved where its cycle error reaches the threshold."""


def track_clip(
    chunks: Sequence[ChunkDescriptors],
    query_points: Float[np.ndarray, "point 3"],
    *,
    sources: Sources,
    stride_px: int,
    params: TrackParams,
) -> PredictedTracks:
    """Track query points through all frames of the chunks, forward and backward in time.

    A query on an anchor frame is matched straight in every other frame. A query on any other frame is matched straight
    in the frames that share a chunk with it, and in the rest by way of the nearest anchor: query frame, anchor, frame.

    Args:
        chunks: Descriptors of the clip, as `chunk_schedule` cut it; together they hold frames 0 ... T-1.
        query_points: (frame, x, y), pixels of the image that the backbone saw; see `geometry.rescale_points`.
        sources: (step, layer) pairs to fuse.
        stride_px: Pixels per token.
        params: How to match, fuse, smooth and tell visible from not.

    Returns:
        Tracks in the order of `query_points`.

    Raises:
        ValueError: a query point is not finite or lies outside the clip, a frame is in no chunk, or the descriptors do
            not fit.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 4.1. Visibility, queries after frame 0, fusion by probability and
        sub-token positions are ours.
    """
    num_frames = _check_coverage(chunks, sources)
    query, _ = chunks[0].read(*sources[0])
    size_px = (query.shape[2] * stride_px, query.shape[3] * stride_px)
    _check_queries(query_points, num_frames=num_frames, size_px=size_px)
    points = torch.from_numpy(np.ascontiguousarray(query_points, dtype=np.float32)).to(query.device)
    tokens = points_to_tokens(points[:, 1:], stride_px=float(stride_px), params=params.matching_params)
    by_frame = {int(frame): np.flatnonzero(query_points[:, 0] == frame) for frame in np.unique(query_points[:, 0])}
    legs = _routes(chunks, {frame: tokens[index] for frame, index in by_frame.items()}, sources, params)
    shape = (num_frames, len(points))
    xy, margin, cycle = tokens.new_zeros(*shape, 2), tokens.new_zeros(shape), tokens.new_zeros(shape)
    for frame, index in by_frame.items():
        for target, leg in legs[frame].items():
            xy[target, index] = leg.points_xy_token
            margin[target, index] = leg.margin
            cycle[target, index] = leg.cycle_error_token
    visible = visible_of(margin, cycle, params)
    xy_px = tokens_to_points(xy, stride_px=float(stride_px), params=params.matching_params)
    for frame, index in by_frame.items():
        xy_px[frame, index] = points[index, 1:]
    if params.smoothing_radius:
        xy_px = smooth_tracks(xy_px, visible, radius=params.smoothing_radius, fixed_frames=points[:, 0].long())
    return PredictedTracks(
        points_xy_px=xy_px.cpu().numpy(),
        visible=visible.cpu().numpy(),
        confidence=confidence_of(margin, cycle, params).cpu().numpy(),
    )


def _routes(
    chunks: Sequence[ChunkDescriptors], starts: Mapping[int, Tensor], sources: Sources, params: TrackParams
) -> dict[int, dict[int, Leg]]:
    """Find a leg from every query frame to every frame of the clip."""
    by_anchor: dict[int, list[ChunkDescriptors]] = {}
    for chunk in chunks:
        by_anchor.setdefault(chunk.anchor, []).append(chunk)
    routes: dict[int, dict[int, Leg]] = {}
    for anchor, own_chunks in sorted(by_anchor.items()):
        mine = {frame: points for frame, points in starts.items() if _nearest(frame, by_anchor) == anchor}
        if mine:
            routes |= _routes_by_anchor(anchor, own_chunks, mine, sources, params)
    return routes


def _nearest(frame: int, anchors: Mapping[int, object]) -> int:
    return min(anchors, key=lambda anchor: (abs(anchor - frame), anchor))


def _routes_by_anchor(
    anchor: int,
    chunks: Sequence[ChunkDescriptors],
    starts: Mapping[int, Tensor],
    sources: Sources,
    params: TrackParams,
) -> dict[int, dict[int, Leg]]:
    """Go straight where a chunk holds both frames, and by way of the anchor elsewhere."""
    straight = legs_from(chunks, {frame: xy for frame, xy in starts.items() if frame != anchor}, sources, params)
    to_anchor = {frame: legs[anchor] for frame, legs in straight.items()}
    on_anchor = {frame: to_anchor[frame].points_xy_token if frame in to_anchor else starts[frame] for frame in starts}
    onward = legs_from(chunks, {anchor: torch.cat(list(on_anchor.values()))}, sources, params)[anchor]
    routes: dict[int, dict[int, Leg]] = {}
    first = 0
    for frame, points in on_anchor.items():
        own = slice(first, first + len(points))
        first += len(points)
        if frame == anchor:
            routes[frame] = {target: leg[own] for target, leg in onward.items()}
        else:
            hops = {target: to_anchor[frame].then(leg[own]) for target, leg in onward.items()}
            routes[frame] = hops | straight[frame]
    return routes


def _check_coverage(chunks: Sequence[ChunkDescriptors], sources: Sources) -> int:
    """Count the frames of the clip; every anchor's chunks must hold them all."""
    if not chunks or not sources:
        raise ValueError(
            f"{len(chunks)} chunk(s) and {len(sources)} (step, layer) given; at least one of each is needed"
        )
    num_frames = 1 + max(frame for chunk in chunks for frame in chunk.frames)
    for anchor in {chunk.anchor for chunk in chunks}:
        held = {frame for chunk in chunks if chunk.anchor == anchor for frame in chunk.frames}
        if missing := sorted(set(range(num_frames)) - held):
            raise ValueError(f"no chunk with anchor {anchor} holds frames {missing[:10]}; are chunks missing?")
    return num_frames


def _check_queries(query_points: np.ndarray, *, num_frames: int, size_px: tuple[int, int]) -> None:
    if len(query_points) == 0:
        raise ValueError("there is no query point; at least one is needed")
    for index, (frame, x, y) in enumerate(query_points.tolist()):
        where = f"query point {index} is (frame {frame:g}, x {x:g}, y {y:g})"
        if not np.isfinite([frame, x, y]).all():
            raise ValueError(f"{where}; all three must be finite")
        if frame != int(frame) or not 0 <= frame < num_frames:
            raise ValueError(f"{where}; its frame must be one of 0 ... {num_frames - 1}")
        if not (0 <= x <= size_px[1] and 0 <= y <= size_px[0]):
            raise ValueError(f"{where}; it must lie inside the frame of {size_px[1]} x {size_px[0]} px")
