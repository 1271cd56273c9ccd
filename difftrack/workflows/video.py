"""Track points through one video that lies in memory: run the backbone over it, and keep no store."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import track as watched

from difftrack.backbones import Backbone
from difftrack.chunks import chunk_schedule
from difftrack.correspondence import matching_device
from difftrack.datasets import Clip
from difftrack.extraction import ClipExtraction, Extractor, TrackingParams
from difftrack.geometry import rescale_points
from difftrack.scenes import Scenes
from difftrack.tracking import ChunkDescriptors, PredictedTracks, TrackParams, select_sources, track_clip

__all__ = ["track_video"]


def track_video(
    clip: Clip,
    query_points: Float[np.ndarray, "point txy"],
    backbone: Backbone,
    view: TrackingParams,
    params: TrackParams,
    *,
    scenes: Scenes | None = None,
    best_layers: Sequence[int] | None = None,
    progress: bool = False,
) -> PredictedTracks:
    """Run a backbone over the clip's chunks of frames, and track through their descriptors.

    Args:
        clip: The video.
        query_points: (frame, x, y), pixels of the clip.
        backbone: Runs.
        view: How the backbone sees the clip, and in which chunks of frames.
        params: How to match, fuse, smooth and tell visible from not; decides which layers are captured.
        scenes: Where tracks end; None takes the clip for one scene.
        best_layers: Layers by their scores, best first; needed for `layers: best`.
        progress: Show a progress bar.

    Returns:
        Tracks in the order of `query_points`, in pixels of the clip.

    Raises:
        ValueError: a query point lies outside the clip, or a wanted layer, step or head is not captured.
    """
    extractor = Extractor(backbone, view)
    schedule = chunk_schedule(clip.num_frames, view.chunks, native_len=backbone.native_token_frames)
    extraction = extractor.prepare(clip, chunks=schedule)
    spec = next(iter(extraction.groups.values()))
    sources = select_sources(spec, params, best_layers=best_layers)
    device = matching_device(params.device)
    groups = watched(extraction.groups, description="extract", disable=not progress)
    chunks = [_chunk(extraction, group, sources, device) for group in groups]
    clip_size = (clip.height, clip.width)
    seen = query_points.copy()
    seen[:, 1:] = rescale_points(query_points[:, 1:], from_size=clip_size, to_size=spec.size)
    tracks = track_clip(chunks, seen, sources=sources, grid=spec.grid, params=params, scenes=scenes)
    return tracks.rescaled(from_size=spec.size, to_size=clip_size)


def _chunk(extraction: ClipExtraction, group: str, sources: Sequence[tuple[int, int]], device: str) -> ChunkDescriptors:
    """Run one chunk of frames and hold what is asked for in memory; it is matched on `device`."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        found = torch.from_numpy(values)
        return (found.view(torch.bfloat16) if found.dtype == torch.uint16 else found).to(device)

    units = {(unit.step, unit.layer): unit.arrays for unit in extraction.units(extraction.plan(group).only(sources))}
    spec = extraction.groups[group]
    return ChunkDescriptors(
        frames=spec.frames,
        read=lambda step, layer: (tensor(units[step, layer]["query"]), tensor(units[step, layer]["key"])),
        heads=spec.heads,
    )
