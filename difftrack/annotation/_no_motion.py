"""A baseline that predicts no motion."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from difftrack.datasets import Tracks, check_query_points
from difftrack.geometry import inside_picture

__all__ = ["NoMotion"]


@dataclass(frozen=True, slots=True)
class NoMotion:
    """Keeps every point at its query position, visible in all frames. It has no settings."""

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Repeat the query positions in every frame; see `Tracker.track`."""
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
