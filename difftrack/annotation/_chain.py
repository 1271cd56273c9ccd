"""Follow points from frame to frame, forwards and backwards from their query frames."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.datasets import Tracks, check_query_points

__all__ = ["Step", "follow"]

Step = Callable[[int, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`step(here, there, points_xy_px [point, xy])` maps points of frame `here` to the neighbouring frame `there`. It
returns their positions [point, xy] and whether each was followed [point]."""


def follow(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    query_points: Float32[np.ndarray, "point txy"],
    step: Step,
    *,
    tracker: str,
) -> Tracks:
    """Chain steps between neighbouring frames. A lost point stays invisible, but its position is still estimated.

    Args:
        frames: The clip.
        query_points: (frame, x, y), pixels.
        step: Follows points from one frame to a neighbouring frame.
        tracker: Name of the tracker, recorded in the tracks.

    Raises:
        DatasetError: a query point lies outside the clip.
    """
    num_frames, height, width = frames.shape[:3]
    check_query_points(query_points, num_frames=num_frames, height=height, width=width)
    start, rows = query_points[:, 0].astype(int), np.arange(len(query_points))
    points: Float32[np.ndarray, "frame point xy"] = np.zeros((num_frames, len(query_points), 2), dtype=np.float32)
    visible: Bool[np.ndarray, "frame point"] = np.zeros((num_frames, len(query_points)), dtype=bool)
    points[start, rows], visible[start, rows] = query_points[:, 1:], True
    for order in (range(num_frames), range(num_frames - 1, -1, -1)):
        for here, there in pairwise(order):
            active = np.flatnonzero((here - start) * order.step >= 0)
            if not len(active):
                continue
            points[there, active], followed = step(here, there, points[here, active])
            visible[there, active] = visible[here, active] & followed
    return Tracks(
        points_xy_px=points, visible=visible, query_points=query_points, height=height, width=width, tracker=tracker
    )
