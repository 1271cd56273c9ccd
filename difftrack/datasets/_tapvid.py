"""Read TAP-Vid: its pickles, its two protocols for query points, and its units, which are converted here.

For each clip, TAP-Vid stores `video` (uint8 [frame, row, col, rgb], or one JPEG per frame), `points` [point, frame, xy]
as fractions of the frame (0 and 1 are its outer edges) and `occluded` [point, frame]. Source: Doersch et al. 2022
(arXiv 2211.03726), and Vecerik et al. 2023 (arXiv 2308.15975) for RoboTAP.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from difftrack.datasets._clips import Clip, TrackedVideo, Tracks, check_length
from difftrack.datasets._errors import ClipFailure, DatasetError, refuse_unknown, setting_aside
from difftrack.datasets._names import plain_name, told_apart
from difftrack.datasets._params import QueryMode
from difftrack.datasets._pickles import check_unfolded, fetch, index_pickle
from difftrack.datasets._truth import ANNOTATED
from difftrack.media import gathered, jpeg_decode

__all__ = [
    "load_tapvid_folder",
    "load_tapvid_pickle",
    "read_tapvid_entry",
    "tapvid_queries",
    "with_annotation",
]


_STRIDE = 5
"""Distance between query frames in strided mode."""
_FPS = 24.0
"""Frame rate for playback; TAP-Vid states none."""


def tapvid_queries(
    points_xy_px: Float[np.ndarray, "point frame xy"],
    occluded: Bool[np.ndarray, "point frame"],
    *,
    mode: QueryMode,
) -> tuple[Float32[np.ndarray, "query txy"], Int[np.ndarray, " query"]]:
    """Select query points as TAP-Vid defines them; points that are never visible give no query.

    Args:
        points_xy_px: (x, y) of each point in pixels.
        occluded: True where the point is not visible.
        mode: `first` gives one query per point, in the order of the points; `strided` gives one query per visible point
            in frames 0, 5, 10, ..., in the order of the frames.

    Returns:
        Query points as (frame, x, y), and the index of each query's point.

    Source:
        TAP-Vid's evaluation. The released DiffTrack code gives (frame, x, y) in `first` mode and (frame, y, x) in
        `strided` mode, and drops queries after frame 0. This function always gives (frame, x, y) and keeps all queries.
    """
    if mode == "first":
        source = np.flatnonzero(~occluded.all(axis=1))
        frames = np.argmin(occluded[source], axis=1)
    else:
        steps, source = np.nonzero(~occluded[:, ::_STRIDE].T)
        frames = steps * _STRIDE
    queries = np.concatenate([frames[:, None], points_xy_px[source, frames]], axis=1)
    return queries.astype(np.float32), source


def load_tapvid_pickle(
    path: Path,
    query_mode: QueryMode = "first",
    *,
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
) -> Iterator[TrackedVideo]:
    """Read the clips of one pickle (DAVIS, RGB-Stacking, one file of RoboTAP), one at a time.

    The clips of a dict are sorted by name. The clips of a list keep their order and are named after the file and their
    index.

    Args:
        path: The pickle; only arrays and plain containers are read from it.
        query_mode: How query points are selected.
        start: Number of clips to skip at the beginning.
        end: Index of the first clip that is not read; None reads to the end.
        max_frames: Maximum number of frames per clip; query points are selected only from these frames.
        skip: Names of clips to leave out, as here or as in the file; the other clips keep their numbers. The name of
            the file suppresses errors in the file as a whole: the clips before a truncation are still read.
        failures: Collects the clips that cannot be used, and reading continues; None raises the first failure.

    Raises:
        DatasetError: the file contains anything but arrays and plain containers, is not a TAP-Vid pickle, or `skip`
            names an unknown clip.
    """
    return _load([path], query_mode, slice(start, end), max_frames, skip, failures)


def load_tapvid_folder(
    folder: Path,
    query_mode: QueryMode = "first",
    *,
    pattern: str = "*.pkl",
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
) -> Iterator[TrackedVideo]:
    """Read the clips of all pickles in a folder, sorted by file name (Kinetics, RoboTAP); the set may be incomplete.

    Args:
        folder: Folder that contains the pickles.
        query_mode: How query points are selected.
        pattern: Pattern of the file names; TAP-Vid-Kinetics has `*_of_0010.pkl`.
        start: Number of clips to skip at the beginning, counted over all existing files.
        end: Index of the first clip that is not read; None reads to the end.
        max_frames: Maximum number of frames per clip.
        skip: Clips to leave out and files whose errors are suppressed, as in `load_tapvid_pickle`.
        failures: Collects the clips and files that cannot be used; None raises the first failure.

    Raises:
        DatasetError: no file in the folder matches the pattern, or `skip` names an unknown clip.
    """
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DatasetError(f"{folder}: contains no {pattern}; docs/datasets.md lists where to download the data sets")
    return _load(paths, query_mode, slice(start, end), max_frames, skip, failures)


def with_annotation(
    clip: Clip,
    points_xy_px: Float[np.ndarray, "point frame xy"],
    occluded: Bool[np.ndarray, "point frame"],
    *,
    query_mode: QueryMode,
    tracker: str = ANNOTATED,
) -> TrackedVideo:
    """Combine a clip with its annotated points; each query gets a track.

    Args:
        clip: The clip.
        points_xy_px: (x, y) of each point in pixels of the clip.
        occluded: True where the point is not visible.
        query_mode: How query points are selected.
        tracker: The name of the tracker that produced the points; `annotated` if people marked them.

    Raises:
        DatasetError: a visible position is not a number, or no point can be queried.
    """
    with np.errstate(over="ignore"):
        points_xy_px = points_xy_px.astype(np.float32)
    bad = np.argwhere(~occluded & ~np.isfinite(points_xy_px).all(axis=-1))
    if len(bad):
        raise DatasetError(f"point {bad[0][0]} is visible but not a number (NaN or infinite) in frame {bad[0][1]}")
    query_points, source = tapvid_queries(points_xy_px, occluded, mode=query_mode)
    if not len(query_points):
        raise DatasetError(f"no point is visible in a frame that query_mode {query_mode!r} uses")
    points = np.where(occluded[..., None], np.nan_to_num(points_xy_px), points_xy_px)[source]
    tracks = Tracks(
        points_xy_px=np.ascontiguousarray(points.transpose(1, 0, 2), dtype=np.float32),
        visible=np.ascontiguousarray(~occluded[source].T),
        query_points=query_points,
        height=clip.height,
        width=clip.width,
        tracker=tracker,
    )
    return TrackedVideo(clip, tracks)


@dataclass(frozen=True, slots=True)
class _File:
    """An indexed pickle and its size in bytes."""

    path: Path
    size: int


def _load(
    paths: list[Path],
    query_mode: QueryMode,
    clips: slice,
    max_frames: int | None,
    skip: Collection[str],
    failures: list[ClipFailure] | None,
) -> Iterator[TrackedVideo]:
    if skip:
        refuse_unknown(skip, _names(paths))
    taken: set[str] = set()
    numbered = enumerate(_entries(paths, skip, failures))
    for position, (file, name, entry) in islice(numbered, clips.start, clips.stop):
        if name in skip or plain_name(name) in skip:
            continue
        details = {"file": file.path.name, "entry": name, "position": position}
        with setting_aside(name, failures):
            _check_claims(entry, file.size)
            own = plain_name(name)
            if own in taken and own != name:
                own = told_apart(name)
            taken.add(own)
            yield read_tapvid_entry(own, entry, details, query_mode, max_frames)


def _names(paths: list[Path]) -> Iterator[str]:
    for _, name, _ in _entries(paths, (), []):
        yield from (plain_name(name), name)
    yield from (path.name for path in paths)


def _entries(
    paths: list[Path], skip: Collection[str], failures: list[ClipFailure] | None
) -> Iterator[tuple[_File, str, Any]]:
    for path in paths:
        with setting_aside(path.name, [] if path.name in skip else failures):
            index = index_pickle(path)
            file = _File(path, index.size)
            if isinstance(index.root, dict):
                yield from sorted(((file, str(name), entry) for name, entry in index.root.items()), key=itemgetter(1))
            else:
                yield from ((file, f"{path.stem}_{number:04d}", entry) for number, entry in enumerate(index.root))
            if index.cut:
                raise DatasetError(index.cut)


def _check_claims(entry: Any, size: int) -> None:  # noqa: ANN401 - a pickle contains any type
    for value in entry.values() if isinstance(entry, Mapping) else ():
        check_unfolded(value, size)


def read_tapvid_entry(
    name: str,
    entry: Any,  # noqa: ANN401 - a pickle contains any type
    details: Mapping[str, Any] = MappingProxyType({}),
    query_mode: QueryMode = "first",
    max_frames: int | None = None,
) -> TrackedVideo:
    """Read one clip of a TAP-Vid file.

    Args:
        name: The clip's name.
        entry: A mapping of `video` (uint8 [frame, row, col, rgb], or a list of JPEG bytes), `points` (fractions of
            width and height, [point, frame, xy]) and `occluded` (bool [point, frame]).
        details: Provenance.
        query_mode: TAP-Vid's protocol for query points.
        max_frames: Maximum number of frames; None reads all.

    Raises:
        DatasetError: the entry is not a TAP-Vid clip, or its arrays do not agree.
    """
    if entry is None:
        raise DatasetError("the file ends within this clip")
    if not isinstance(entry, Mapping) or not {"video", "points", "occluded"} <= entry.keys():
        raise DatasetError("is not a TAP-Vid clip; expected a dict with video, points and occluded")
    frames = _frames(entry["video"], max_frames)
    clip = Clip(name=name, frames=frames, fps=_FPS, prompt="", source="folder", details=details)
    points, occluded = _array(entry, "points"), _array(entry, "occluded").astype(bool)
    if points.shape != (*occluded.shape, 2) or points.dtype.kind != "f" or points.shape[1] < len(frames):
        raise DatasetError(
            f"points are {points.dtype} {points.shape} and occluded {occluded.shape} for {len(frames)} frames; "
            "expected [point, frame, 2] and [point, frame]"
        )
    with np.errstate(over="ignore"):  # infinite positions are reported later with their point and frame
        points_px = points[:, : len(frames)].astype(np.float64) * (clip.width, clip.height)
    return with_annotation(clip, points_px, occluded[:, : len(frames)], query_mode=query_mode)


def _array(entry: Mapping[str, Any], key: str) -> np.ndarray:
    try:
        return np.asarray(fetch(entry[key]))
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"the array {key} is ragged: points have different numbers of frames ({error})") from error


def _bytes(stored: Any) -> bytes:  # noqa: ANN401
    content = fetch(stored)
    if not isinstance(content, bytes):
        raise DatasetError(f"video contains a {type(content).__name__}; expected JPEG bytes")
    return content


def _frames(stored: Any, max_frames: int | None) -> UInt8[np.ndarray, "frame row col rgb"]:  # noqa: ANN401
    content = fetch(stored)
    if not isinstance(content, list | tuple | np.ndarray):
        raise DatasetError(f"video is a {type(content).__name__}; expected an array of frames or a list of JPEG bytes")
    video = content[:max_frames]
    if isinstance(video, np.ndarray) and video.dtype.kind not in "OS":
        frames = video
    else:
        frames = gathered((jpeg_decode(_bytes(picture)) for picture in video), "video", expected=len(video))
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DatasetError(f"video is {frames.dtype} {frames.shape}; expected uint8 [frame, row, col, 3] or JPEG bytes")
    check_length(len(frames))
    return frames
