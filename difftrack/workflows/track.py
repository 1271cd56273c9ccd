"""Track points of one clip through its stored descriptors."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from difftrack.correspondence import matching_device
from difftrack.geometry import rescale_points
from difftrack.store import Store
from difftrack.tracking import PredictedTracks, TrackParams, select_sources, stored_chunks, track_clip

__all__ = ["track_stored_clip"]


def track_stored_clip(
    store: Store,
    clip: str,
    query_points: Float[np.ndarray, "point txy"],
    params: TrackParams,
    *,
    best_layers: Sequence[int] | None = None,
) -> PredictedTracks:
    """Track query points through all stored frames of a clip.

    Args:
        store: A tracking view.
        clip: Name of the clip.
        query_points: (frame, x, y), pixels of the clip's own frames.
        params: How to match, fuse, smooth and tell visible from not.
        best_layers: Layers by their scores, best first; needed for `layers: best`.

    Returns:
        Tracks in the order of `query_points`, in pixels of the clip's own frames.

    Raises:
        StoreError: the clip is unknown, or one of its chunks is incomplete or damaged.
        ValueError: a query point lies outside the clip, or a wanted step, layer or head is not stored.
    """
    chunks, spec = stored_chunks(store, clip, kind=params.kind, device=matching_device(params.device))
    seen = np.column_stack(
        [query_points[:, 0], rescale_points(query_points[:, 1:], from_size=spec.clip_size, to_size=spec.size)]
    )
    sources = select_sources(spec, params, best_layers=best_layers)
    tracks = track_clip(chunks, seen, sources=sources, grid=spec.grid, params=params)
    return tracks.rescaled(from_size=spec.size, to_size=spec.clip_size)
