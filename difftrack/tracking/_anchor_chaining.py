"""Chains matches from a query's frame to every frame of the clip."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.tracking._chunks import ChunkDescriptors, FusionInputs
from difftrack.tracking._frame_matches import FrameMatches, match_frames

__all__ = ["chained_matches"]


def chained_matches(
    chunks: Sequence[ChunkDescriptors],
    starts: Mapping[int, Float[Tensor, "_ xy"]],
    fusion: FusionInputs,
    *,
    num_frames: int,
) -> dict[int, FrameMatches]:
    """Match points of any frames in all frames, through the anchor nearest in time where no chunk holds both.

    Args:
        chunks: Descriptors; those of one anchor hold all frames together.
        starts: Video frame -> its points in token coordinates.
        fusion: Which descriptors to read, and how to match and fuse them.
        num_frames: Frames of the clip.

    Returns:
        Video frame -> matches of its points in all frames of the clip, [frame, point].
    """
    by_anchor: dict[int, list[ChunkDescriptors]] = {}
    for chunk in chunks:
        by_anchor.setdefault(chunk.anchor, []).append(chunk)
    chains: dict[int, FrameMatches] = {}
    for anchor, own_chunks in sorted(by_anchor.items()):
        mine = {frame: points for frame, points in starts.items() if _nearest(frame, by_anchor) == anchor}
        if mine:
            chains |= _chain_through_anchor(anchor, own_chunks, mine, fusion, num_frames)
    return chains


def _nearest(frame: int, anchors: Mapping[int, object]) -> int:
    return min(anchors, key=lambda anchor: (abs(anchor - frame), anchor))


def _chain_through_anchor(
    anchor: int,
    chunks: Sequence[ChunkDescriptors],
    starts: Mapping[int, Tensor],
    fusion: FusionInputs,
    num_frames: int,
) -> dict[int, FrameMatches]:
    """Match directly where a chunk holds both frames, and through the anchor elsewhere."""
    elsewhere = {frame: points for frame, points in starts.items() if frame != anchor}
    straight = match_frames(chunks, elsewhere, fusion, num_frames=num_frames)
    to_anchor = {frame: matched.in_clip[anchor] for frame, matched in straight.items()}
    on_anchor = {frame: to_anchor[frame].points_xy_token if frame in to_anchor else starts[frame] for frame in starts}
    from_anchor = {anchor: torch.cat(list(on_anchor.values()))}
    onward = match_frames(chunks, from_anchor, fusion, num_frames=num_frames)[anchor].in_clip
    chains: dict[int, FrameMatches] = {}
    first = 0
    for frame, points in on_anchor.items():
        own = onward[:, first : first + len(points)]
        first += len(points)
        if frame == anchor:
            chains[frame] = own
        else:
            chains[frame] = to_anchor[frame].then(own).copy()
            chains[frame][straight[frame].frames] = straight[frame].in_clip[straight[frame].frames]
    return chains
