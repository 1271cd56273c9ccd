"""What a tracker must beat."""

import numpy as np
from jaxtyping import Float

from difftrack.tracking._tracker import PredictedTracks

__all__ = ["no_motion"]


def no_motion(query_points: Float[np.ndarray, "point 3"], *, num_frames: int) -> PredictedTracks:
    """Leave every point where its query (frame, x, y) put it, visible throughout.

    Args:
        query_points: Frame and position in pixels.
        num_frames: Frames of the clip.

    Returns:
        Tracks in pixels of the image that the queries refer to.
    """
    xy = np.broadcast_to(query_points[None, :, 1:], (num_frames, len(query_points), 2)).astype(np.float32)
    seen = np.ones(xy.shape[:2], dtype=bool)
    return PredictedTracks(points_xy_px=xy, visible=seen, confidence=seen.astype(np.float32))
