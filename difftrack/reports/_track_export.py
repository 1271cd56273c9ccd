"""Exports tracks of your own video: arrays, a table, and the video with the tracks drawn on it."""

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
"""Minimum comfortable width of a video."""
_MOST_UPSCALE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Provenance of tracks, as stored in the npz."""

    backbone: str
    """Name of the backbone."""
    backbone_fingerprint: str
    params: Mapping[str, Any]
    """All settings, as JSON."""
    source: str
    """File name of the video."""
    source_sha256: str
    """SHA-256 of the file's content, or of the images."""
    fps: float
    """Frames per second of the frames that were tracked."""
    size: tuple[int, int]
    """(height, width) of the video, pixels of the positions."""
    video_frames: Sequence[int]
    """Number of each tracked frame in the video."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the entries of an npz; `version` is this package's."""
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
    """Whether to show the original video on the left."""

    def enlarged(self, width: int) -> OverlayParams:
        """Return the settings for a video of this width: small videos are enlarged."""
        if self.params.upscale is not None:
            return self.params
        return replace(self.params, upscale=min(_MOST_UPSCALE, -(-_WIDE_PX // width)))


def export_name(folder: Path, names: Sequence[str], source_sha256: str, *, force: bool = False) -> str:
    """Choose the name for tracks of a video: results of another video are never overwritten.

    Args:
        folder: Output folder.
        names: Names in the order of preference.
        source_sha256: SHA-256 of the video, as in `Provenance`.
        force: Take the first name, even if files exist.

    Raises:
        ValueError: all names are taken by other videos or foreign files.
    """
    taken = [problem for name in names if (problem := _taken(folder, name, source_sha256))]
    if not taken or force or len(taken) < len(names):
        free = [name for name in names if force or not _taken(folder, name, source_sha256)]
        return free[0]
    raise ValueError(f"{taken[0]}; name another folder with --out, another name with --name, or --force")


def _taken(folder: Path, name: str, source_sha256: str) -> str | None:
    """Describe other results under a name; None if there are none."""
    arrays = folder / f"{name}-{_ENDINGS[0]}"
    held = array_names(arrays)
    if held is None:
        others = [path for ending in _ENDINGS[1:] if (path := folder / f"{name}-{ending}").exists()]
        return f"{others[0]} exists without {arrays.name}, so this program did not write it" if others else None
    if _SOURCE not in held:
        return f"{arrays} does not name the video of its tracks"
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

    The arrays record the provenance of the tracks. No name equals that of the video itself, which may be in the same
    folder. The overlay is written frame by frame.

    Args:
        folder: Output folder, created if missing.
        name: Result of `export_name`.
        frames: Frames of the tracked video, one by one.
        query_points: (frame, x, y) in pixels of the video.
        tracks: Tracks of these points, in pixels of the video.
        provenance: Provenance of the tracks.
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
    """Yield frames with tracks and a legend, next to the original video if requested."""
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
    """Write tracks as CSV: one row per frame and point, positions in pixels."""
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
