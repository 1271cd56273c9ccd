"""Ways from a query's frame to every frame of the clip."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.tracking._chunks import ChunkDescriptors, Reading
from difftrack.tracking._legs import Leg, legs_from

__all__ = ["routes_from"]


def routes_from(
    chunks: Sequence[ChunkDescriptors], starts: Mapping[int, Float[Tensor, "_ xy"]], reading: Reading
) -> dict[int, dict[int, Leg]]:
    """Lead points of any frames to all frames, by way of the anchor nearest in time where no chunk holds both.

    Args:
        chunks: Descriptors; those of one anchor hold all frames together.
        starts: Points in token coordinates, by the video frame that they lie in.
        reading: What to read, and how to match and fuse it.

    Returns:
        Legs by the frame of `starts` and every frame of the clip.
    """
    by_anchor: dict[int, list[ChunkDescriptors]] = {}
    for chunk in chunks:
        by_anchor.setdefault(chunk.anchor, []).append(chunk)
    routes: dict[int, dict[int, Leg]] = {}
    for anchor, own_chunks in sorted(by_anchor.items()):
        mine = {frame: points for frame, points in starts.items() if _nearest(frame, by_anchor) == anchor}
        if mine:
            routes |= _routes_by_anchor(anchor, own_chunks, mine, reading)
    return routes


def _nearest(frame: int, anchors: Mapping[int, object]) -> int:
    return min(anchors, key=lambda anchor: (abs(anchor - frame), anchor))


def _routes_by_anchor(
    anchor: int, chunks: Sequence[ChunkDescriptors], starts: Mapping[int, Tensor], reading: Reading
) -> dict[int, dict[int, Leg]]:
    """Go straight where a chunk holds both frames, and by way of the anchor elsewhere."""
    straight = legs_from(chunks, {frame: points for frame, points in starts.items() if frame != anchor}, reading)
    to_anchor = {frame: legs[anchor] for frame, legs in straight.items()}
    on_anchor = {frame: to_anchor[frame].points_xy_token if frame in to_anchor else starts[frame] for frame in starts}
    onward = legs_from(chunks, {anchor: torch.cat(list(on_anchor.values()))}, reading)[anchor]
    routes: dict[int, dict[int, Leg]] = {}
    first = 0
    for frame, points in on_anchor.items():
        own = slice(first, first + len(points))
        first += len(points)
        routes[frame] = {target: leg[own] for target, leg in onward.items()}
        if frame != anchor:
            hops = {target: to_anchor[frame].then(leg) for target, leg in routes[frame].items()}
            routes[frame] = hops | straight[frame]
    return routes
