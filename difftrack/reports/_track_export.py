"""Tracks of a video of one's own, for reading on: arrays, a table, and the video with the tracks drawn on it."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from difftrack.arrays import array_names, read_arrays
from difftrack.datasets import OWN_TRACKER
from difftrack.media import write_frames
from difftrack.reports._overlay import drawn_frames, side_by_side, with_legend
from difftrack.reports._params import OverlayParams
from difftrack.tracking import PredictedTracks, write_predictions

__all__ = ["ExportedVideo", "Provenance", "export_name", "export_tracks", "export_tracks_table", "package_version"]

_ENDINGS = ("tracks.npz", "tracks.csv", "overlay.mp4")
_SOURCE = "source_sha256"
_WIDE_PX = 640
"""Width from which a video is large enough to look at."""
_MOST_UPSCALE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """By what tracks were made, as the npz says it."""

    backbone: str
    """Its name."""
    backbone_fingerprint: str
    params: Mapping[str, Any]
    """All that was chosen, as JSON holds it."""
    source: str
    """The video's file name."""
    source_sha256: str
    """SHA-256 of the file's content, or of the images."""
    fps: float
    """Frames per second of the frames that were tracked."""
    size: tuple[int, int]
    """(height, width) of the video, pixels of the positions."""
    video_frames: Sequence[int]
    """Number of each tracked frame in the video."""

    def arrays(self) -> dict[str, np.ndarray]:
        """As they stand in an npz; `version` is this package's."""
        return {
            "backbone": np.asarray(self.backbone),
            "backbone_fingerprint": np.asarray(self.backbone_fingerprint),
            "params": np.asarray(json.dumps(self.params, sort_keys=True, default=str)),
            "source": np.asarray(self.source),
            _SOURCE: np.asarray(self.source_sha256),
            "fps": np.asarray(self.fps),
            "size": np.asarray(self.size, dtype=np.int64),
            "video_frames": np.asarray(self.video_frames, dtype=np.int64),
            "version": np.asarray(package_version()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedVideo:
    """How the overlay video is drawn."""

    params: OverlayParams = field(default_factory=OverlayParams)
    beside: bool = False
    """Whether the video as it is stands on the left."""

    def enlarged(self, width: int) -> OverlayParams:
        """As it is drawn for a video that is `width` pixels wide: one too small to look at is enlarged."""
        if self.params.upscale is not None:
            return self.params
        return replace(self.params, upscale=min(_MOST_UPSCALE, -(-_WIDE_PX // width)))


def export_name(folder: Path, names: Sequence[str], source_sha256: str, *, force: bool = False) -> str:
    """Choose the name under which tracks of a video are written: results of another video are never written over.

    Args:
        folder: Where they go.
        names: In the order in which they are tried.
        source_sha256: Of the video, as `Provenance` has it.
        force: Take the first name, whatever is there.

    Raises:
        ValueError: all names are taken by other videos, or by files that are not this program's.
    """
    taken = [problem for name in names if (problem := _taken(folder, name, source_sha256))]
    if not taken or force or len(taken) < len(names):
        free = [name for name in names if force or not _taken(folder, name, source_sha256)]
        return free[0]
    raise ValueError(f"{taken[0]}; name another folder with --out, another name with --name, or --force")


def _taken(folder: Path, name: str, source_sha256: str) -> str | None:
    """Say of what else there are results under a name; None where there are none."""
    arrays = folder / f"{name}-{_ENDINGS[0]}"
    held = array_names(arrays)
    if held is None:
        others = [path for ending in _ENDINGS[1:] if (path := folder / f"{name}-{ending}").exists()]
        return f"{others[0]} is there without {arrays.name}, so that it is not this program's" if others else None
    if _SOURCE not in held:
        return f"{arrays} does not say of which video it holds tracks"
    said = read_arrays(arrays, (_SOURCE, "source"))
    return None if str(said[_SOURCE]) == source_sha256 else f"{arrays} holds tracks of another {said.get('source')}"


def export_tracks(
    folder: Path,
    name: str,
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
    query_points: Float[np.ndarray, "point txy"],
    tracks: PredictedTracks,
    provenance: Provenance,
    *,
    cuts: Sequence[int] = (),
    video: ExportedVideo | None = None,
) -> list[Path]:
    """Write NAME-tracks.npz, NAME-tracks.csv with a row per frame and point, and NAME-overlay.mp4.

    The arrays say that this project found the tracks, and how. No name is that of the video itself, which may lie in
    the same folder. The overlay is written while frames come; none is held.

    Args:
        folder: Made if missing.
        name: From `export_name`.
        frames: Of the video that was tracked, one by one.
        query_points: (frame, x, y) in pixels of the video.
        tracks: Where those points went, in pixels of the video.
        provenance: By what they were made.
        cuts: First frames after cuts at which tracks end; written into the npz.
        video: How the overlay is drawn.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays, table, overlay = (folder / f"{name}-{ending}" for ending in _ENDINGS)
    write_predictions(
        arrays, query_points, {"tracker": tracks}, tracker=OWN_TRACKER, cuts=cuts, about=provenance.arrays()
    )
    export_tracks_table(table, tracks)
    video = video or ExportedVideo()
    drawn = _overlay(frames, query_points, tracks, provenance.size, video)
    write_frames(overlay, drawn, provenance.fps, lossless=False)
    return [arrays, table, overlay]


def _overlay(
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
    query_points: Float[np.ndarray, "point txy"],
    tracks: PredictedTracks,
    size: tuple[int, int],
    video: ExportedVideo,
) -> Iterator[UInt8[np.ndarray, "out_row out_col rgb"]]:
    """Frames with tracks, a legend under them, and the video beside them where that is asked for."""
    params = video.enlarged(size[1])
    scale = params.scale(size[1])
    plain: list[np.ndarray] = []

    def passing() -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
        for frame in frames:
            plain[:] = [frame]
            yield frame

    drawn = drawn_frames(
        passing(),
        tracks.points_xy_px,
        tracks.visible,
        query_frames=query_points[:, 0].astype(int).tolist(),
        params=params,
    )
    if video.beside:
        drawn = (
            side_by_side([cv2.resize(plain[0], None, fx=scale, fy=scale)[None], picture[None]])[0] for picture in drawn
        )
    radius_px = params.radius_px(*size, len(query_points))
    return with_legend(drawn, radius_px=radius_px, trail_frames=params.trail_frames)


def export_tracks_table(path: Path, tracks: PredictedTracks) -> None:
    """Write tracks as CSV: a row per frame and point, positions in pixels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "point", "x_px", "y_px", "visible", "confidence"])
        for (frame, point), visible in np.ndenumerate(tracks.visible):
            x, y = tracks.points_xy_px[frame, point].tolist()
            writer.writerow([frame, point, x, y, int(visible), float(tracks.confidence[frame, point])])


def package_version() -> str:
    """This package's version; `unknown` in a checkout that is not installed."""
    try:
        return version("difftrack-video")
    except PackageNotFoundError:
        return "unknown"
