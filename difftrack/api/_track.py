"""Tracks points from stored descriptors."""

import base64
import dataclasses
import html
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from difftrack.api._clips import known_clip
from difftrack.api._default_names import write_unnamed
from difftrack.api._errors import UsageError
from difftrack.api._points import Points, points_array
from difftrack.datasets import Clip, check_query_points
from difftrack.media import open_video, read_video, write_video
from difftrack.params import parse
from difftrack.rotary import FrequencyBands
from difftrack.store import Store
from difftrack.tracking import PredictedTracks, TrackParams
from difftrack.workflows.match import clip_groups, only_clip
from difftrack.workflows.track import track_stored_clip

__all__ = ["PointTracks", "track"]

_MOST_SHOWN_BYTES = 8_000_000
"""Larger videos are not embedded in a notebook's page."""


@dataclass(frozen=True, slots=True, eq=False)
class PointTracks:
    """Tracks of query points over a clip."""

    name: str
    """Name of the clip."""
    query_points: Float[np.ndarray, "point txy"]
    """(frame, x, y), pixels of the clip."""
    tracks: PredictedTracks
    size: tuple[int, int]
    """(height, width) of the clip's frames, pixels."""
    clip: Clip | None = None
    """The clip's frames, if given; overlays are drawn on them."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Provenance of the tracks, as JSON; `save` writes it into the npz."""

    @property
    def points_xy_px(self) -> Float[np.ndarray, "frame point xy"]:
        """Positions in pixels of the clip."""
        return self.tracks.points_xy_px

    @property
    def visible(self) -> Bool[np.ndarray, "frame point"]:
        """Whether each point is visible in each frame."""
        return self.tracks.visible

    @property
    def confidence(self) -> Float[np.ndarray, "frame point"]:
        """Confidence that each point is visible at its position, 0 to 1."""
        return self.tracks.confidence

    def save(self, path: str | Path) -> Path:
        """Write the tracks; the suffix selects the format.

        Args:
            path: `.npz` (arrays for `read_predictions`, with the provenance entries of `difftrack track`) or `.csv`
                (one row per frame and point).

        Raises:
            UsageError: the suffix is neither.
            ValueError: another npz of this name exists.
        """
        from difftrack.datasets import OWN_TRACKER
        from difftrack.reports import export_tracks_table
        from difftrack.tracking import write_predictions

        file = Path(path)
        if file.suffix == ".npz":
            write_predictions(
                file, self.query_points, {"tracker": self.tracks}, tracker=OWN_TRACKER, about=self._about()
            )
        elif file.suffix == ".csv":
            export_tracks_table(file, self.tracks)
        else:
            raise UsageError(f"{file}: tracks are saved as .npz or .csv")
        return file

    def overlay(self, clip: Clip | str | Path | None = None, *, to: str | Path | None = None) -> Path:
        """Draw the tracks on the clip's frames and write the video.

        Args:
            clip: The frames, or their video file; by default those that the store was made from in this session.
            to: The `.mp4` file to write or overwrite; by default `NAME-overlay.mp4` in the current folder, or
                `NAME-overlay-2.mp4` and so on if the name is taken.

        Returns:
            The written file.

        Raises:
            UsageError: the frames are not known, or `to` is the source video itself.
        """
        source = clip if clip is None or isinstance(clip, Clip) else Path(clip)
        if to is None:
            return write_unnamed(Path(f"{self.name}-overlay.mp4"), lambda file: self._write_overlay(file, source))
        file = Path(to)
        if isinstance(source, Path) and file.exists() and file.samefile(source):
            raise UsageError(f"{file} is the source video; name another file with to=")
        self._write_overlay(file, source)
        return file

    def _about(self) -> dict[str, np.ndarray]:
        """Further arrays that `save` writes."""
        from difftrack.reports import package_version

        made_by = dict(self.made_by)
        about = {
            "source": np.asarray(self.name),
            "size": np.asarray(self.size, dtype=np.int64),
            "version": np.asarray(package_version()),
        }
        if self.clip is not None:
            about["fps"] = np.asarray(self.clip.fps)
        for name in ("backbone_fingerprint", "descriptors"):
            if name in made_by:
                about[name] = np.asarray(made_by.pop(name))
        if made_by:
            about["params"] = np.asarray(json.dumps(made_by, sort_keys=True, default=str))
        return about

    def _write_overlay(self, file: Path, source: Clip | Path | None) -> None:
        drawn = self._drawn(source)
        known = source or self.clip
        fps = known.fps if isinstance(known, Clip) else open_video(Path(str(known))).fps
        write_video(file, drawn, fps, lossless=False)

    def _drawn(self, source: Clip | Path | None) -> UInt8[np.ndarray, "frame row col rgb"]:
        from difftrack.reports import OverlayParams, draw_tracks

        if isinstance(source, Path):
            frames = read_video(source, max_frames=len(self.visible)).frames
        elif clip := source or self.clip:
            frames = clip.frames[: len(self.visible)]
        else:
            raise UsageError("the clip's frames are not known here; pass overlay() the clip or its video file")
        if frames.shape[1:3] != self.size or len(frames) != len(self.visible):
            raise UsageError(
                f"the frames are {len(frames)} of {frames.shape[2]}x{frames.shape[1]} px, but the tracks are for "
                f"{len(self.visible)} of {self.size[1]}x{self.size[0]} px; pass the tracked clip"
            )
        return draw_tracks(
            frames,
            self.points_xy_px,
            self.visible,
            query_frames=self.query_points[:, 0].astype(int).tolist(),
            params=OverlayParams(upscale=1),
        )

    def __repr__(self) -> str:
        frames, points = self.visible.shape
        return (
            f"<PointTracks of {self.name}: {points} points in {frames} frames of {self.size[1]}x{self.size[0]} px, "
            f"{self.visible.mean():.0%} visible>"
        )

    def _repr_html_(self) -> str:
        """Show the overlay video if the frames are known and it is small enough."""
        about = html.escape(repr(self))
        if self.clip is None:
            return f"<p>{about}</p>"
        with tempfile.TemporaryDirectory() as folder:
            content = self.overlay(to=Path(folder) / "overlay.mp4").read_bytes()
        if len(content) > _MOST_SHOWN_BYTES:
            return f"<p>{about}; the video is too large to show here; overlay() writes it</p>"
        data = base64.b64encode(content).decode()
        return f'<p>{about}</p><video controls loop muted src="data:video/mp4;base64,{data}"></video>'


def track(
    store: Store,
    *,
    points: Points | None = None,
    grid: int | None = None,
    queries: Float[np.ndarray, "point txy"] | None = None,
    clip: str | None = None,
    params: TrackParams | None = None,
    **options: Any,  # noqa: ANN401 - fields of TrackParams, checked there
) -> PointTracks:
    """Track points through a clip of a store's tracking view.

    Args:
        store: Result of `extract` or `open_store`, with view `tracking`.
        points: (x, y) in pixels of the clip, in frame 0.
        grid: Instead of points: number of grid points along each side of frame 0.
        queries: Instead of both: (frame, x, y), for points that start in other frames.
        clip: Name of the clip; optional if only one is stored.
        params: How to track; `TrackParams()` by default.
        options: Fields of `TrackParams` to change, such as `layers=(6, 7)`, `kind="key_key"` or `motion_cost=0`;
            `frequencies` may be a mapping, such as `{"temporal": (0.5, 1)}`.

    Raises:
        StoreError: the store lacks the clip, or holds no tracking view.
        UsageError: none of `points`, `grid` and `queries` is given, or more than one.
        ValueError: a point lies outside the clip, or an option has a wrong value.
    """
    name = only_clip(store, clip)
    group, chunk = clip_groups(store, name)[0]
    if chunk is None:
        raise UsageError(f"{name} is stored as an analysis view; tracking needs extract(..., view='tracking')")
    spec = store.spec(group)
    height, width = spec.clip_size
    num_frames = 1 + max(max(store.spec(each).frames) for each, _ in clip_groups(store, name))
    query_points = _queries(points, grid, queries, height=height, width=width)
    check_query_points(query_points, num_frames=num_frames, height=height, width=width)
    if isinstance(options.get("frequencies"), Mapping):
        options["frequencies"] = parse(FrequencyBands, options["frequencies"], "frequencies")
    chosen = dataclasses.replace(params or TrackParams(), **options)
    source = known_clip(store, name)
    frames = None if source is None else source.frames
    tracks, _ = track_stored_clip(store, name, query_points, chosen, frames=frames)
    return PointTracks(name, query_points, tracks, (height, width), source, _made_by(store, name, chosen))


def _made_by(store: Store, clip: str, params: TrackParams) -> dict[str, Any]:
    """Return the provenance: the descriptors that were read, their dependencies, and the tracking params."""
    groups = [group for group, _ in clip_groups(store, clip)]
    parts = dict(store.spec(groups[0]).fingerprint_parts)
    made_by = {
        "descriptors": [store.fingerprint(group) for group in groups],
        "extract.tracking": {name: part for name, part in parts.items() if name not in ("backbone", "frames")},
        "track": asdict(params),
    }
    return made_by if "backbone" not in parts else {"backbone_fingerprint": parts["backbone"], **made_by}


def _queries(
    points: Points | None,
    grid: int | None,
    queries: np.ndarray | None,
    *,
    height: int,
    width: int,
) -> Float[np.ndarray, "point txy"]:
    from difftrack.annotation import query_grid

    if sum(given is not None for given in (points, grid, queries)) != 1:
        raise UsageError("give one of points=, grid= and queries=")
    if grid is not None:
        return query_grid(height, width, grid)
    if queries is not None:
        return np.asarray(queries, dtype=np.float32).reshape(-1, 3)
    assert points is not None
    xy = points_array(points)
    return np.column_stack([np.zeros(len(xy), np.float32), xy])
