"""Predicted tracks and their files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from difftrack.arrays import array_names
from difftrack.artifacts import ArtifactError, read_arrays
from difftrack.geometry import rescale_points

__all__ = ["PredictedTracks", "no_motion", "read_predictions", "write_predictions"]

TRACKER = "tracker"
"""Whose arrays bear no prefix in the file."""
_WAY_OUT = "run the track stage again"


@dataclass(frozen=True, slots=True, eq=False)
class PredictedTracks:
    """Tracks of query points over a clip."""

    points_xy_px: Float[np.ndarray, "frame point xy"]
    """float32; the query itself in the query's frame."""
    visible: Bool[np.ndarray, "frame point"]
    confidence: Float[np.ndarray, "frame point"]
    """float32, 0 ... 1: how far the match stands out, halved where its cycle error reaches the threshold."""

    def rescaled(self, *, from_size: tuple[int, int], to_size: tuple[int, int]) -> "PredictedTracks":
        """Carry the positions from an image of one (height, width) to the same image at another."""
        return replace(self, points_xy_px=rescale_points(self.points_xy_px, from_size=from_size, to_size=to_size))


def no_motion(query_points: Float[np.ndarray, "point 3"], *, num_frames: int) -> PredictedTracks:
    """Leave every point where its query (frame, x, y) put it, visible throughout: what a tracker must beat.

    Args:
        query_points: Frame and position in pixels.
        num_frames: Frames of the clip.

    Returns:
        Tracks in pixels of the image that the queries refer to.
    """
    xy = np.broadcast_to(query_points[None, :, 1:], (num_frames, len(query_points), 2)).astype(np.float32)
    seen = np.ones(xy.shape[:2], dtype=bool)
    return PredictedTracks(points_xy_px=xy, visible=seen, confidence=seen.astype(np.float32))


def write_predictions(
    path: Path,
    query_points: Float[np.ndarray, "point 3"],
    predictions: Mapping[str, PredictedTracks],
    *,
    tracker: str | None = None,
) -> None:
    """Write what several trackers made of the same query points; the same predictions give the same bytes.

    The file appears under its name when it is complete.

    Args:
        path: An npz file. It holds `query_points` and the arrays of `PredictedTracks`: those of `tracker` under their
            own names, those of any other with its name in front, `no_motion_points_xy_px`.
        query_points: (frame, x, y), pixels of the same image as the predictions.
        predictions: By name.
        tracker: What gave the tracks of `tracker`, for a file that leaves the project; kept beside them.

    Raises:
        ValueError: a file is there and holds no predictions.
    """
    if (held := array_names(path)) is not None and not held >= {"query_points", "points_xy_px"}:
        raise ValueError(f"{path} holds no tracks and is not written over; move it elsewhere")
    arrays: dict[str, np.ndarray] = {"query_points": query_points}
    if tracker is not None:
        arrays["tracker"] = np.asarray(tracker)
    for name, tracks in predictions.items():
        prefix = "" if name == TRACKER else f"{name}_"
        arrays[f"{prefix}points_xy_px"] = tracks.points_xy_px
        arrays[f"{prefix}visible"] = tracks.visible
        arrays[f"{prefix}confidence"] = tracks.confidence
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    part.replace(path)


def read_predictions(path: Path) -> tuple[Float[np.ndarray, "point 3"], dict[str, PredictedTracks]]:
    """Read what `write_predictions` wrote.

    Raises:
        ArtifactError: the file is missing, empty, cut short or holds something else.
    """
    arrays = read_arrays(path, way_out=_WAY_OUT)
    prefixes = [key.removesuffix("points_xy_px") for key in arrays if key.endswith("points_xy_px")]
    try:
        predictions = {
            prefix.removesuffix("_") or TRACKER: PredictedTracks(
                arrays[f"{prefix}points_xy_px"], arrays[f"{prefix}visible"], arrays[f"{prefix}confidence"]
            )
            for prefix in prefixes
        }
        return arrays["query_points"], predictions
    except KeyError as error:
        raise ArtifactError(f"{path}: holds no predictions: {error} is missing; {_WAY_OUT}") from error
