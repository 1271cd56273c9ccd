"""Predicted tracks, and files that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

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
"""The tracker whose arrays have no prefix in the file."""
_WAY_OUT = "run the track stage again"


@dataclass(frozen=True, slots=True, eq=False)
class PredictedTracks:
    """Tracks of query points over a clip."""

    points_xy_px: Float[np.ndarray, "frame point xy"]
    """float32 positions; in the query's frame, the query itself."""
    visible: Bool[np.ndarray, "frame point"]
    confidence: Float[np.ndarray, "frame point"]
    """float32, 0 ... 1: the probability that the point is visible, calibrated on clips with known visibility; 0 where
    it cannot be visible. Trackers that only predict a flag have 0 and 1.
    """

    def rescaled(self, *, from_size: tuple[int, int], to_size: tuple[int, int]) -> "PredictedTracks":
        """Rescale the positions from an image of one (height, width) to another."""
        return replace(self, points_xy_px=rescale_points(self.points_xy_px, from_size=from_size, to_size=to_size))

    def seen_in(
        self, *, height: int, width: int, query_frames: Int[np.ndarray, " point"], scenes: Scenes | None = None
    ) -> "PredictedTracks":
        """Mark every point as invisible, with confidence 0, where it cannot be seen.

        A point cannot be seen outside the picture (its border counts as inside), outside the scene of its query, in a
        frame of one colour, or from a query in such a frame.

        Args:
            height: Height of the picture, in the pixels of the positions.
            width: Width of the picture.
            query_frames: Query frame of each point.
            scenes: First frames of scenes, and blank frames; None skips these tests.
        """
        possible = inside_picture(self.points_xy_px, height=height, width=width)
        if scenes is not None:
            possible &= scenes.shared_with(query_frames)[: len(possible)]
        return replace(self, visible=self.visible & possible, confidence=self.confidence * possible)


def cuts_line(scenes: Scenes) -> str:
    """Describe in one line where tracks end."""
    frames = ", ".join(map(str, scenes.cuts))
    return f"cut before frame {frames}: points are visible only in their query's scene (set cuts: ignore to track on)"


def no_motion(query_points: Float[np.ndarray, "point 3"], *, num_frames: int) -> PredictedTracks:
    """Keep every point at its query (frame, x, y), always visible: the baseline that a tracker must beat.

    Args:
        query_points: Frame and position in pixels.
        num_frames: Number of frames of the clip.

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
    about: Mapping[str, np.ndarray] = MappingProxyType({}),
    identity: str | None = None,
) -> None:
    """Write tracks of several trackers for the same query points; the same predictions give the same bytes.

    The file appears under its name when it is complete.

    Args:
        path: An npz file. It holds `query_points` and the arrays of `PredictedTracks`: those of `tracker` under their
            own names, those of any other with its name as prefix, such as `no_motion_points_xy_px`.
        query_points: (frame, x, y), pixels of the same image as the predictions.
        predictions: Name of the tracker -> its tracks.
        tracker: Description of the tracker, stored in the file.
        points: Indices of the query points among all points of the clip's tracks; None means all, and the file then
            holds no indices.
        cuts: First frames after cuts at which tracks end; written as `cuts` if there are any.
        about: Further arrays that describe the clip and the maker of the tracks.
        identity: Digest of everything that the predictions depend on, so that a later run can reuse the file.

    Raises:
        ValueError: the path holds a file without predictions.
    """
    if (held := array_names(path)) is not None and not held >= {"query_points", "points_xy_px"}:
        raise ValueError(f"{path} holds no tracks, so it is not overwritten; move it elsewhere")
    arrays: dict[str, np.ndarray] = {**about, "query_points": query_points}
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
    """Read the indices of the predicted points among all points of the clip's tracks; None means all.

    Raises:
        ArtifactError: the file is missing, empty, cut short or holds something else.
    """
    return read_arrays(path, way_out=_WAY_OUT).get("points")


def read_identity(path: Path) -> str | None:
    """Read the digest of everything that predictions depend on; None without a digest or a readable file."""
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
