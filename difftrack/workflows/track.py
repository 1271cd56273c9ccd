"""Tracks points of one clip with its stored descriptors, and with baselines."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float, UInt8

from difftrack.annotation import make_tracker
from difftrack.correspondence import MatchKind, matching_device
from difftrack.evaluation import TrackSection
from difftrack.geometry import rescale_points
from difftrack.scenes import Scenes, find_scenes
from difftrack.store import DescriptorSpec, Store
from difftrack.tracking import (
    ChunkDescriptors,
    PredictedTracks,
    TrackParams,
    no_motion,
    select_sources,
    stored_chunks,
    track_clip,
)

__all__ = ["num_stored_frames", "track_by_baselines", "track_chunks", "track_stored_clip"]


def num_stored_frames(store: Store, clip: str, *, kind: MatchKind = "query_key") -> int:
    """Return the number of frames of a clip that a tracking view covers, from frame 0 on."""
    chunks, _ = stored_chunks(store, clip, kind=kind)
    return 1 + max(max(chunk.frames) for chunk in chunks)


def track_stored_clip(
    store: Store,
    clip: str,
    query_points: Float[np.ndarray, "point txy"],
    params: TrackParams,
    *,
    frames: UInt8[np.ndarray, "frame row col rgb"] | None = None,
    best_layers: Sequence[int] | None = None,
) -> tuple[PredictedTracks, Scenes]:
    """Track query points through all stored frames of a clip.

    Args:
        store: A tracking view.
        clip: Name of the clip.
        query_points: (frame, x, y), pixels of the clip's own frames.
        params: How to match, fuse, smooth and predict visibility.
        frames: The clip's frames, to find cuts; without them cuts are unknown.
        best_layers: Layers by their scores, best first; needed for `layers: best`.

    Returns:
        Tracks in the order of `query_points`, in pixels of the clip's own frames, and the scenes that limit them.

    Raises:
        StoreError: the clip is unknown, or one of its chunks is incomplete or damaged.
        ValueError: a query point lies outside the clip, or a requested step, layer or head is not stored.
    """
    chunks, spec = stored_chunks(store, clip, kind=params.kind, device=matching_device(params.device))
    return track_chunks(chunks, spec, query_points, params, frames=frames, best_layers=best_layers)


def track_chunks(
    chunks: Sequence[ChunkDescriptors],
    spec: DescriptorSpec,
    query_points: Float[np.ndarray, "point txy"],
    params: TrackParams,
    *,
    frames: UInt8[np.ndarray, "frame row col rgb"] | None = None,
    best_layers: Sequence[int] | None = None,
) -> tuple[PredictedTracks, Scenes]:
    """Track query points through all chunks of a clip, for descriptors from any source.

    Args:
        chunks: Chunks in the order of their schedule.
        spec: Spec of the first chunk.
        query_points: As in `track_stored_clip`, like the result and the errors.
        params: As in `track_stored_clip`.
        frames: As in `track_stored_clip`.
        best_layers: As in `track_stored_clip`.
    """
    num_frames = 1 + max(max(chunk.frames) for chunk in chunks)
    seen = np.column_stack(
        [query_points[:, 0], rescale_points(query_points[:, 1:], from_size=spec.clip_size, to_size=spec.size)]
    )
    scenes = Scenes((0,), np.zeros(num_frames, dtype=bool))
    if frames is not None:
        scenes = find_scenes(frames[:num_frames], cuts=params.cuts == "end")
    sources = select_sources(spec, params, best_layers=best_layers)
    tracks = track_clip(chunks, seen, sources=sources, grid=spec.grid, params=params, scenes=scenes)
    return tracks.rescaled(from_size=spec.size, to_size=spec.clip_size), scenes


def track_by_baselines(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    query_points: Float[np.ndarray, "point txy"],
    section: TrackSection,
    *,
    scenes: Scenes,
) -> dict[str, PredictedTracks]:
    """Track the same query points with the registered trackers in `track.baselines`.

    Args:
        frames: The clip's frames.
        query_points: (frame, x, y), pixels of the frames.
        section: The baselines and their settings.
        scenes: Scenes that limit tracks; they do not apply to `no_motion`.

    Raises:
        TrackerUnavailableError: a package or weights are missing.
    """
    height, width = frames.shape[1:3]
    starts = query_points[:, 0].astype(np.int64)
    predictions = {}
    for name in section.baselines:
        if name == "no_motion":
            predictions[name] = no_motion(query_points, num_frames=len(frames))
            continue
        settings = asdict(section.lucas_kanade) if name == "lucas_kanade" else section.trackers.get(name)
        found = make_tracker(name, settings, section="track.trackers").track(frames, query_points)
        followed = PredictedTracks(found.points_xy_px, found.visible, found.visible.astype(np.float32))
        predictions[name] = followed.seen_in(height=height, width=width, query_frames=starts, scenes=scenes)
    return predictions
