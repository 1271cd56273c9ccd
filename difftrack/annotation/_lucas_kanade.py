"""Pyramidal Lucas-Kanade, a classical tracker without weights."""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.annotation._chain import follow
from difftrack.annotation._params import LucasKanadeParams
from difftrack.datasets import Tracks
from difftrack.geometry import inside_picture

__all__ = ["LucasKanade", "lucas_kanade"]


class LucasKanade(LucasKanadeParams):
    """Lucas-Kanade as a registered tracker; the fields are its settings."""

    __slots__ = ()

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Track the points; see `Tracker.track`."""
        return lucas_kanade(frames, query_points, self)


def lucas_kanade(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    query_points: Float32[np.ndarray, "point txy"],
    params: LucasKanadeParams | None = None,
) -> Tracks:
    """Track each query point forwards and backwards through the clip, from frame to frame.

    A point is visible while every step so far tracks back to its start (forward-backward error, Kalal et al. 2010) and
    stays inside the frame. A lost point stays invisible, because the tracker then follows whatever covers it. Its
    position is still estimated.

    Args:
        frames: The clip.
        query_points: (frame, x, y), pixels.
        params: Settings; None uses the defaults.

    Raises:
        DatasetError: a query point lies outside the clip.
    """
    settings = params or LucasKanadeParams()
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    return follow(
        frames,
        query_points,
        lambda here, there, points: _step(grey[here], grey[there], points, settings),
        tracker="lucas_kanade",
    )


def _step(
    here: UInt8[np.ndarray, "row col"],
    there: UInt8[np.ndarray, "row col"],
    points_xy_px: Float32[np.ndarray, "point xy"],
    params: LucasKanadeParams,
) -> tuple[Float32[np.ndarray, "point xy"], Bool[np.ndarray, " point"]]:
    settings: dict[str, Any] = {
        "winSize": (params.window_px, params.window_px),
        "maxLevel": params.levels,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, params.iterations, params.epsilon_px),
        "minEigThreshold": params.min_eigenvalue,
    }
    origin = points_xy_px - np.float32(0.5)  # OpenCV's pixel centres lie at integers
    moved, found, _ = cv2.calcOpticalFlowPyrLK(here, there, origin, np.empty_like(origin), **settings)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(there, here, moved, np.empty_like(origin), **settings)
    follows = (np.ravel(found) > 0) & np.isfinite(moved).all(axis=-1)
    place = np.where(follows[:, None], moved + np.float32(0.5), points_xy_px)
    returns = np.linalg.norm(back - origin, axis=-1) <= params.max_round_trip_px
    inside = inside_picture(place, height=here.shape[0], width=here.shape[1])
    return place, follows & (np.ravel(found_back) > 0) & returns & inside
