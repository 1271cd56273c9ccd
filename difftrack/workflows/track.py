"""Track points of one clip through its stored descriptors, and the baselines beside it."""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from difftrack.annotation import LucasKanadeParams, lucas_kanade
from difftrack.correspondence import matching_device
from difftrack.geometry import rescale_points
from difftrack.scenes import Scenes, find_scenes
from difftrack.store import Store
from difftrack.tracking import PredictedTracks, TrackParams, no_motion, select_sources, stored_chunks, track_clip

__all__ = ["num_stored_frames", "track_by_baselines", "track_stored_clip"]


def num_stored_frames(store: Store, clip: str, *, kind: str = "query_key") -> int:
    """Return how many frames of a clip a tracking view covers, from frame 0 on."""
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
        params: How to match, fuse, smooth and tell visible from not.
        frames: The clip's frames, in which cuts are found; without them none is known.
        best_layers: Layers by their scores, best first; needed for `layers: best`.

    Returns:
        Tracks in the order of `query_points`, in pixels of the clip's own frames, and the scenes that they end with.

    Raises:
        StoreError: the clip is unknown, or one of its chunks is incomplete or damaged.
        ValueError: a query point lies outside the clip, or a wanted step, layer or head is not stored.
    """
    chunks, spec = stored_chunks(store, clip, kind=params.kind, device=matching_device(params.device))
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
    names: Collection[str],
    *,
    scenes: Scenes,
    lucas_kanade_params: LucasKanadeParams,
) -> dict[str, PredictedTracks]:
    """Track the same query points with baselines.

    Args:
        frames: The clip's frames.
        query_points: (frame, x, y), pixels of the frames.
        names: Which: `no_motion`, `lucas_kanade`.
        scenes: Where tracks end.
        lucas_kanade_params: How Lucas-Kanade tracks.
    """
    predictions = {}
    if "no_motion" in names:
        predictions["no_motion"] = no_motion(query_points, num_frames=len(frames))
    if "lucas_kanade" in names:
        flow = lucas_kanade(frames, query_points, lucas_kanade_params)
        followed = PredictedTracks(flow.points_xy_px, flow.visible, flow.visible.astype(np.float32))
        starts = query_points[:, 0].astype(np.int64)
        height, width = frames.shape[1:3]
        predictions["lucas_kanade"] = followed.seen_in(height=height, width=width, query_frames=starts, scenes=scenes)
    return predictions
