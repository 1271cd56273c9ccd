"""No motion at all: what a tracker must beat."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from difftrack.datasets import Tracks, check_query_points
from difftrack.geometry import inside_picture

__all__ = ["NoMotion"]


@dataclass(frozen=True, slots=True)
class NoMotion:
    """Leaves every point where its query put it, visible throughout. It has no settings."""

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Repeat the queries' positions in every frame; as `Tracker.track`."""
        num_frames, height, width = frames.shape[:3]
        check_query_points(query_points, num_frames=num_frames, height=height, width=width)
        points = np.repeat(query_points[None, :, 1:], num_frames, axis=0)
        return Tracks(
            points_xy_px=points,
            visible=inside_picture(points, height=height, width=width),
            query_points=query_points,
            height=height,
            width=width,
            tracker="no_motion",
        )
