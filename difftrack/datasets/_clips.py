"""A clip, the tracks of a clip, and both together."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.datasets._errors import DatasetError
from difftrack.datasets._names import check_name
from difftrack.datasets._truth import Truth

__all__ = [
    "Clip",
    "ClipOrigin",
    "ClipOutline",
    "TrackedVideo",
    "Tracks",
    "check_length",
    "check_query_points",
]

ClipOrigin = Literal["rendered", "generated", "folder"]
"""Source of a clip: the renderer, a backbone, or the user's files."""

_MARGIN_PX = 1.0
"""Distance outside the frame that a query point may have, because of clicks on the border and rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A video and what is known about it.

    Raises:
        DatasetError: the name is not a plain file name, there is no frame, the rate is not positive, the source is
            unknown, or the sizes of mask and frames differ.
    """

    name: str
    """Name of the clip's folder: letters and digits of any script, dot, dash and underscore."""
    frames: UInt8[np.ndarray, "frame row col rgb"]
    fps: float
    """Frames per second."""
    prompt: str
    source: ClipOrigin
    seed: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Provenance, as JSON values; rendered clips store their specification under `render`."""
    object_mask: Bool[np.ndarray, "row col"] | None = None
    """True where frame 0 shows an object; None if the clip has no objects or the mask is unknown."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.frames.ndim != 4 or self.frames.dtype != np.uint8 or 0 in self.frames.shape:
            raise DatasetError(
                f"clip {self.name}: frames are {self.frames.dtype} {self.frames.shape}; expected uint8 RGB"
            )
        if not math.isfinite(self.fps) or self.fps <= 0:
            raise DatasetError(f"clip {self.name}: fps is {self.fps}; it must be a positive number")
        if self.source not in get_args(ClipOrigin):
            raise DatasetError(f"clip {self.name}: source is {self.source!r}; known: {', '.join(get_args(ClipOrigin))}")
        if self.object_mask is not None and self.object_mask.shape != self.frames.shape[1:3]:
            raise DatasetError(
                f"clip {self.name}: the object mask is {self.object_mask.shape}, frames are {self.frames.shape[1:3]}"
            )

    @property
    def num_frames(self) -> int:
        """Number of frames in the clip."""
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return int(self.frames.shape[2])

    def fingerprint(self) -> str:
        """SHA-256 of a backbone's input: the frames with their shape, and the prompt."""
        digest = hashlib.sha256(json.dumps([list(self.frames.shape), self.prompt]).encode())
        digest.update(np.ascontiguousarray(self.frames).data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ClipOutline:
    """What a clip's clip.json says of it; its frames are not looked at."""

    name: str
    num_frames: int
    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    prompt: str
    source: ClipOrigin
    digest: str

    def fingerprint(self) -> str:
        """As `Clip.fingerprint` was when the clip was written."""
        return self.digest


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Positions and visibility of points in every frame of a clip of `height` x `width` pixels.

    Raises:
        DatasetError: shapes do not agree, a visible position or a query point is not finite, a query point lies outside
            the clip, or `tracker` is empty.
    """

    points_xy_px: Float32[np.ndarray, "frame point xy"]
    """(x, y) in pixels; undefined where not visible."""
    visible: Bool[np.ndarray, "frame point"]
    query_points: Float32[np.ndarray, "point txy"]
    """(frame, x, y): the frame index and the position in pixels at which tracking of each point starts."""
    height: int
    width: int
    tracker: str
    """Source of the tracks: the name of a tracker, `exact` for the renderer, `annotated` for people; see `truth`."""

    def __post_init__(self) -> None:
        num_frames, num_points = self.visible.shape
        if self.points_xy_px.shape != (num_frames, num_points, 2) or self.query_points.shape != (num_points, 3):
            raise DatasetError(
                f"tracks: points {self.points_xy_px.shape}, visible {self.visible.shape} and query points "
                f"{self.query_points.shape} do not agree; expected [frame, point, 2], [frame, point], [point, 3]"
            )
        if not self.tracker:
            raise DatasetError("tracks: tracker is empty; expected exact, annotated, or the name of a tracker")
        bad = np.argwhere(self.visible & ~np.isfinite(self.points_xy_px).all(axis=-1))
        if len(bad):
            raise DatasetError(f"tracks: point {bad[0][1]} is visible but not a number in frame {bad[0][0]}")
        check_query_points(self.query_points, num_frames=num_frames, height=self.height, width=self.width)

    @property
    def num_frames(self) -> int:
        """Number of frames that the tracks cover."""
        return int(self.visible.shape[0])

    @property
    def num_points(self) -> int:
        """Number of tracked points."""
        return int(self.visible.shape[1])

    @property
    def truth(self) -> Truth:
        """Kind of truth of the tracks: exact, annotated, or the pseudo-truth of a tracker."""
        return Truth.of_tracker(self.tracker)

    def select(self, keep: Bool[np.ndarray, " point"]) -> "Tracks":
        """Return the tracks of the selected points."""
        return Tracks(
            points_xy_px=self.points_xy_px[:, keep],
            visible=self.visible[:, keep],
            query_points=self.query_points[keep],
            height=self.height,
            width=self.width,
            tracker=self.tracker,
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrackedVideo:
    """A clip with its tracks.

    Raises:
        DatasetError: the tracks are for a clip of another length or size.
    """

    clip: Clip
    tracks: Tracks

    def __post_init__(self) -> None:
        clip_shape = (self.clip.num_frames, self.clip.height, self.clip.width)
        tracks_shape = (self.tracks.num_frames, self.tracks.height, self.tracks.width)
        if clip_shape != tracks_shape:
            raise DatasetError(
                f"clip {self.clip.name} is {clip_shape} (frames, height, width), but its tracks are for {tracks_shape}"
            )


def check_query_points(
    query_points: Float32[np.ndarray, "point txy"], *, num_frames: int, height: int, width: int
) -> None:
    """Check that query points lie inside the clip; up to one pixel outside the border is allowed.

    Args:
        query_points: (frame, x, y): frame index, pixels.
        num_frames: Length of the clip.
        height: Image height in pixels.
        width: Image width in pixels.

    Raises:
        DatasetError: a point is not a number, lies between two frames or outside the clip; the message names the first.
    """
    frame, x, y = query_points.T
    inside = (frame >= 0) & (frame < num_frames) & (frame == np.floor(frame))
    inside &= (x >= -_MARGIN_PX) & (x <= width + _MARGIN_PX) & (y >= -_MARGIN_PX) & (y <= height + _MARGIN_PX)
    for index in np.flatnonzero(~inside)[:1]:
        t, px, py = (float(value) for value in query_points[index])
        raise DatasetError(
            f"query point {index} is (frame {t:g}, x {px:g}, y {py:g}); expected a whole frame number "
            f"below {num_frames} and a position inside {width}x{height} pixels"
        )


def check_length(num_frames: int) -> None:
    """Check that a clip is long enough for tracking.

    Raises:
        DatasetError: there are fewer than 2 frames.
    """
    if num_frames < 2:
        raise DatasetError(f"has {num_frames} frame(s); tracking needs at least 2")
