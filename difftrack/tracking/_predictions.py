"""Predicted tracks and their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from difftrack.arrays import array_names
from difftrack.artifacts import ArtifactError, read_arrays
from difftrack.geometry import inside_picture, rescale_points
from difftrack.scenes import Scenes

__all__ = [
    "PredictedTracks",
    "cuts_line",
    "no_motion",
    "read_identity",
    "read_points",
    "read_predictions",
    "write_predictions",
]

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
    """float32, 0 ... 1: the probability that the point is seen there, calibrated on clips where that is known; 0 where
    it cannot be. Trackers that tell visible from not alone have 0 and 1."""

    def rescaled(self, *, from_size: tuple[int, int], to_size: tuple[int, int]) -> "PredictedTracks":
        """Carry the positions from an image of one (height, width) to the same image at another."""
        return replace(self, points_xy_px=rescale_points(self.points_xy_px, from_size=from_size, to_size=to_size))

    def seen_in(
        self, *, height: int, width: int, query_frames: Int[np.ndarray, " point"], scenes: Scenes | None = None
    ) -> "PredictedTracks":
        """Call every point invisible, with confidence 0, where it cannot be seen.

        A point is seen neither outside the picture, its border excepted, nor outside the scene of its query, nor in a
        frame of one colour or from a query in one.

        Args:
            height: Of the picture, in the pixels of the positions.
            width: Of the picture.
            query_frames: The query's frame of each point.
            scenes: Where scenes begin, and which frames are blank; None where that does not matter.
        """
        possible = inside_picture(self.points_xy_px, height=height, width=width)
        if scenes is not None:
            possible &= scenes.shared_with(query_frames)[: len(possible)]
        return replace(self, visible=self.visible & possible, confidence=self.confidence * possible)


def cuts_line(scenes: Scenes) -> str:
    """Say in one line where tracks end."""
    frames = ", ".join(map(str, scenes.cuts))
    return f"cut before frame {frames}: a point is visible only in the scene of its query (cuts: ignore goes on)"


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
    points: Int[np.ndarray, " point"] | None = None,
    cuts: Sequence[int] = (),
    identity: str | None = None,
) -> None:
    """Write what several trackers made of the same query points; the same predictions give the same bytes.

    The file appears under its name when it is complete.

    Args:
        path: An npz file. It holds `query_points` and the arrays of `PredictedTracks`: those of `tracker` under their
            own names, those of any other with its name in front, `no_motion_points_xy_px`.
        query_points: (frame, x, y), pixels of the same image as the predictions.
        predictions: By name.
        tracker: What gave the tracks of `tracker`, for a file that leaves the project; kept beside them.
        points: Places of the query points among all points of the clip's tracks; None where all are there, and then
            the file holds none.
        cuts: First frames after cuts at which tracks end; `cuts` of the file, which has none where there are none.

        identity: A digest of all that the predictions depend on, for a run that takes up what is there.

    Raises:
        ValueError: a file is there and holds no predictions.
    """
    if (held := array_names(path)) is not None and not held >= {"query_points", "points_xy_px"}:
        raise ValueError(f"{path} holds no tracks and is not written over; move it elsewhere")
    arrays: dict[str, np.ndarray] = {"query_points": query_points}
    if tracker is not None:
        arrays["tracker"] = np.asarray(tracker)
    if points is not None:
        arrays["points"] = points.astype(np.int64)
    if identity is not None:
        arrays["identity"] = np.asarray(identity)
    if cuts:
        arrays["cuts"] = np.asarray(cuts, dtype=np.int64)
    for name, tracks in predictions.items():
        prefix = "" if name == TRACKER else f"{name}_"
        arrays[f"{prefix}points_xy_px"] = tracks.points_xy_px
        arrays[f"{prefix}visible"] = tracks.visible
        arrays[f"{prefix}confidence"] = tracks.confidence
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    part.replace(path)


def read_points(path: Path) -> Int[np.ndarray, " point"] | None:
    """Read the places of the predicted points among all points of the clip's tracks; None where all are there.

    Raises:
        ArtifactError: the file is missing, empty, cut short or holds something else.
    """
    return read_arrays(path, way_out=_WAY_OUT).get("points")


def read_identity(path: Path) -> str | None:
    """Read the digest of what predictions depend on; None where there is none, or no file that can be used."""
    try:
        found = read_arrays(path, way_out=_WAY_OUT).get("identity")
    except ArtifactError:
        return None
    return None if found is None else str(found)


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
