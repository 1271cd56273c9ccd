"""The true track of a clicked point, and tracks by other trackers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from difftrack.datasets import EXACT, DatasetError
from difftrack.explorer._catalog import Catalog
from difftrack.explorer._errors import NotFoundError

__all__ = ["TrueTrack", "other_tracks", "true_tracks"]

NEAREST_PX = 6.0
"""Maximum distance of an annotated point from a clicked one that it represents, in pixels of the clip."""


@dataclass(frozen=True, slots=True, eq=False)
class TrueTrack:
    """A track by which matches are judged."""

    points_xy_px: Float[np.ndarray, "frame xy"]
    visible: Bool[np.ndarray, " frame"]
    source: str
    """`exact`, `annotated`, or the tracker that provides the pseudo-truth."""
    distance_px: float
    """Distance from the clicked point to the point of this track."""

    def as_json(self) -> dict[str, Any]:
        """Return the track as JSON."""
        return {
            "xy": self.points_xy_px.tolist(),
            "visible": self.visible.tolist(),
            "source": self.source,
            "distance": self.distance_px,
        }


def true_tracks(catalog: Catalog, clip: str, points: Sequence[tuple[int, float, float]]) -> list[TrueTrack | None]:
    """Find the true track of each point: computed for a rendered clip, else the nearest annotated point's.

    Args:
        catalog: Catalog with the clip.
        clip: Name of the clip.
        points: (frame, x, y), pixels of the clip.

    Returns:
        A track for each point; None where no annotated point of the same frame starts within `NEAREST_PX`.
    """
    exact = _exact(catalog, clip, points)
    if exact is not None:
        return exact
    try:
        tracks = catalog.tracks(clip)
    except DatasetError:
        return [None] * len(points)
    if tracks is None:
        return [None] * len(points)
    found: list[TrueTrack | None] = []
    for point in points:
        index, distance = _nearest(tracks.query_points, point)
        found.append(
            None
            if distance > NEAREST_PX
            else TrueTrack(tracks.points_xy_px[:, index], tracks.visible[:, index], tracks.tracker, distance)
        )
    return found


def other_tracks(catalog: Catalog, clip: str, points: Sequence[tuple[int, float, float]]) -> list[dict[str, Any]]:
    """Find, for each point, the tracks of the nearest query point from the track stage, by tracker.

    Returns:
        For each point tracker -> {xy, visible, distance}; empty where no query point of its frame is near.
    """
    found: list[dict[str, Any]] = [{} for _ in points]
    for backbone, query_points, trackers in catalog.predictions(clip):
        for tracks, point in zip(found, points, strict=True):
            index, distance = _nearest(query_points, point)
            if distance > NEAREST_PX:
                continue
            for name, predicted in trackers.items():
                label = f"tracker ({backbone})" if name == "tracker" else name
                tracks[label] = {
                    "xy": predicted.points_xy_px[:, index].tolist(),
                    "visible": predicted.visible[:, index].tolist(),
                    "distance": distance,
                }
    return found


def _exact(catalog: Catalog, clip: str, points: Sequence[tuple[int, float, float]]) -> list[TrueTrack | None] | None:
    """Compute the tracks of a rendered clip; None for any other."""
    from difftrack.rendering import RenderSpec, exact_tracks

    try:
        details = catalog.clip(clip).details
    except (NotFoundError, ValueError):
        return None
    if "render" not in details or not points:
        return None
    try:
        xy, visible = exact_tracks(RenderSpec.from_json(details["render"]), np.asarray(points, np.float32))
    except (ValueError, KeyError, TypeError):  # a clip marked as rendered, without the scene
        return None
    return [TrueTrack(xy[:, at].astype(np.float32), visible[:, at], EXACT, 0.0) for at in range(len(points))]


def _nearest(query_points: Float[np.ndarray, "point txy"], point: tuple[int, float, float]) -> tuple[int, float]:
    """Find the query point of the same frame that is nearest; the distance is infinite if there is none."""
    same = query_points[:, 0] == point[0]
    if not same.any():
        return 0, float("inf")
    distances = np.where(same, np.hypot(query_points[:, 1] - point[1], query_points[:, 2] - point[2]), np.inf)
    index = int(distances.argmin())
    return index, float(distances[index])
