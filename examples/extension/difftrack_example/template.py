"""A tracker that searches for the patch around a point near its last position in the next frame."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from difftrack.datasets import Tracks, check_query_points
from difftrack.geometry import inside_picture

__all__ = ["Template"]


@dataclass(frozen=True, slots=True)
class Template:
    """Template matching from frame to frame; its fields are its settings in params.yaml."""

    radius_px: int = 5
    """The patch is 2 r + 1 pixels wide."""
    reach_px: int = 4
    """Largest distance that a point moves from one frame to the next, along each axis, pixels."""
    min_correlation: float = 0.5
    """A point is visible while the patch is found with at least this correlation."""

    def __post_init__(self) -> None:
        for name in ("radius_px", "reach_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")

    def track(self, frames: np.ndarray, query_points: np.ndarray) -> Tracks:
        """Follow every point separately, forwards and backwards; see `difftrack.annotation.Tracker.track`."""
        num_frames, height, width = frames.shape[:3]
        check_query_points(query_points, num_frames=num_frames, height=height, width=width)
        points = np.repeat(query_points[None, :, 1:], num_frames, axis=0)
        visible = np.ones(points.shape[:2], dtype=bool)
        margin = self.radius_px + self.reach_px + 1
        edges = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        padded = np.pad(frames, edges, mode="edge")
        for point, (start, _, _) in enumerate(query_points):
            for order in (range(int(start), num_frames), range(int(start), -1, -1)):
                for here, there in pairwise(order):
                    moved, score = self._step(padded[here], padded[there], points[here, point], margin)
                    points[there, point] = moved
                    visible[there, point] = visible[here, point] and score >= self.min_correlation
        return Tracks(
            points_xy_px=points,
            visible=visible & inside_picture(points, height=height, width=width),
            query_points=query_points,
            height=height,
            width=width,
            tracker="template",
        )

    def _step(self, here: np.ndarray, there: np.ndarray, xy: np.ndarray, margin: int) -> tuple[np.ndarray, float]:
        height, width = (side - 2 * margin for side in here.shape[:2])
        x, y = (int(at) + margin for at in np.clip(xy, 0, [width - 1, height - 1]))
        r, reach = self.radius_px, self.radius_px + self.reach_px
        patch = here[y - r : y + r + 1, x - r : x + r + 1]
        area = there[y - reach : y + reach + 1, x - reach : x + reach + 1]
        scores = cv2.matchTemplate(np.array(area), np.array(patch), cv2.TM_CCOEFF_NORMED)
        row, col = np.unravel_index(np.argmax(scores), scores.shape)
        moved = np.clip(xy, 0, [width, height]) + np.float32([col - self.reach_px, row - self.reach_px])
        return moved.astype(np.float32), float(scores[row, col])
