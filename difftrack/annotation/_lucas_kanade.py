"""Pyramidal Lucas-Kanade: the classical tracker that needs no weights."""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.annotation._params import LucasKanadeParams
from difftrack.datasets import Tracks, check_query_points
from difftrack.geometry import inside_picture

__all__ = ["lucas_kanade"]


def lucas_kanade(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    query_points: Float32[np.ndarray, "point txy"],
    params: LucasKanadeParams | None = None,
) -> Tracks:
    """Follow each query point forwards and backwards through the clip, from frame to frame.

    A point is visible as long as every step so far led back to its start (forward-backward error of Kalal et al. 2010)
    and stayed inside the frame; a point once lost stays lost, since what lies at its place then is what covers it. Its
    position goes on being estimated.

    Args:
        frames: The clip.
        query_points: (frame, x, y), pixels.
        params: Settings; None for the defaults.

    Raises:
        DatasetError: a query point lies outside the clip.
    """
    num_frames, height, width = frames.shape[:3]
    check_query_points(query_points, num_frames=num_frames, height=height, width=width)
    start, rows = query_points[:, 0].astype(int), np.arange(len(query_points))
    points = np.zeros((num_frames, len(query_points), 2), dtype=np.float32)
    visible = np.zeros((num_frames, len(query_points)), dtype=bool)
    points[start, rows], visible[start, rows] = query_points[:, 1:], True
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    for order in (range(num_frames), range(num_frames - 1, -1, -1)):
        for here, there in pairwise(order):
            active = np.flatnonzero((here - start) * order.step >= 0)
            moved, stayed = _step(grey[here], grey[there], points[here, active], params or LucasKanadeParams())
            points[there, active] = moved
            visible[there, active] = visible[here, active] & stayed
    return Tracks(
        points_xy_px=points,
        visible=visible,
        query_points=query_points,
        height=height,
        width=width,
        tracker="lucas_kanade",
    )


def _step(
    here: UInt8[np.ndarray, "row col"],
    there: UInt8[np.ndarray, "row col"],
    points_xy_px: Float32[np.ndarray, "point xy"],
    params: LucasKanadeParams,
) -> tuple[Float32[np.ndarray, "point xy"], Bool[np.ndarray, " point"]]:
    if not len(points_xy_px):
        return points_xy_px, np.zeros(0, dtype=bool)
    settings: dict[str, Any] = {
        "winSize": (params.window_px, params.window_px),
        "maxLevel": params.levels,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, params.iterations, params.epsilon_px),
        "minEigThreshold": params.min_eigenvalue,
    }
    origin = points_xy_px - np.float32(0.5)  # OpenCV's pixel centres lie at whole numbers, ours at halves
    moved, found, _ = cv2.calcOpticalFlowPyrLK(here, there, origin, np.empty_like(origin), **settings)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(there, here, moved, np.empty_like(origin), **settings)
    follows = (np.ravel(found) > 0) & np.isfinite(moved).all(axis=-1)
    place = np.where(follows[:, None], moved + np.float32(0.5), points_xy_px)
    returns = np.linalg.norm(back - origin, axis=-1) <= params.max_round_trip_px
    inside = inside_picture(place, height=here.shape[0], width=here.shape[1])
    return place, follows & (np.ravel(found_back) > 0) & returns & inside
