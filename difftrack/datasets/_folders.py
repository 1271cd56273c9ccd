"""Read the user's files: videos or folders of images, with optional annotation files beside them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from difftrack.arrays import MAX_UNPACKED_BYTES, read_arrays
from difftrack.datasets._clips import Clip, TrackedVideo, check_length
from difftrack.datasets._errors import ClipFailure, DatasetError, refuse_unknown, setting_aside
from difftrack.datasets._names import unique_names
from difftrack.datasets._params import PointUnits, QueryMode
from difftrack.datasets._tables import read_table
from difftrack.datasets._tapvid import with_annotation
from difftrack.datasets._truth import ANNOTATED
from difftrack.media import (
    VIDEO_SUFFIXES,
    FrameRange,
    MediaError,
    gathered,
    is_image_folder,
    list_folder,
    most_bytes,
    natural_order,
    open_video,
    resize_frames,
)

__all__ = ["load_videos"]

_LARGEST_FRACTION = 1.5
"""With `auto`, positions that are all below this are fractions: as pixels they would all lie in the top left corner."""
_COLUMNS = ("point", "frame", "x", "y")
_TRUTH = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class _Taken:
    """Selects the frames of a video that are read, and their size."""

    frames: FrameRange = FrameRange()  # noqa: RUF009 - FrameRange is frozen
    longest_side: int | None = None
    """Maximum length of the longer side in pixels; None keeps the size."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which frames of that size are resized."""
        factor = 1.0 if self.longest_side is None else min(1.0, self.longest_side / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    @property
    def all_frames(self) -> bool:
        """Whether all frames are read."""
        return self.frames == FrameRange()


def load_videos(
    path: Path,
    query_mode: QueryMode = "first",
    *,
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    first_frame: int = 0,
    every: int = 1,
    longest_side: int | None = None,
    point_units: PointUnits = "auto",
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Clip | TrackedVideo]:
    """Read a video, a folder of images, or a folder of both, one clip at a time, in natural order of their names.

    `media.list_folder` decides which files of a folder count; `say` is called with what it leaves out. Clips whose
    names would be equal get different names (`unique_names`).

    An annotation may lie beside `name.mp4` (or the image folder `name`). It is either `name.npz` with `points`
    [point, frame, xy] and optionally `occluded` [point, frame] and `tracker`, or `name.csv` with the columns point,
    frame, x, y and optionally occluded. A missing row means occluded; an empty cell of `occluded` means not occluded.
    `tracker` is the name of the tracker that produced the points, which are then its pseudo-truth. Without it, the
    points count as annotated by people.

    Args:
        path: A video file, a folder of images, or a folder of videos and image folders.
        query_mode: How query points are selected from the annotation.
        start: Number of clips to skip at the beginning.
        end: Index of the first clip that is not read; None reads to the end.
        max_frames: Maximum number of frames per clip.
        first_frame: Number of frames to skip at the beginning of each video.
        every: Read only every `every`-th frame of each video.
        longest_side: Maximum length of the frames' longer side in pixels; frames are shrunk while they are decoded.
        point_units: Units of the annotation.
        skip: Names of clips or files to leave out; the other clips keep their numbers.
        failures: Collects the clips that cannot be used, and reading continues; None raises the first failure.
        say: Called with one line for each item left out and each conversion of frames.

    Yields:
        A `TrackedVideo` if there is an annotation, else a `Clip`.

    Raises:
        DatasetError: `path` contains nothing that can be read, or `skip` names an unknown clip.
    """
    taken = _Taken(FrameRange(first_frame, max_frames, every), longest_side)
    sources, left_out = _sources(path)
    for line in left_out:
        say(f"{path}: {line}")
    if not sources:
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DatasetError("; ".join((f"{path}: contains no videos ({suffixes}) and no folders of images", *left_out)))
    names = _clip_names(sources)
    refuse_unknown(skip, [name for source, own in zip(sources, names, strict=True) for name in (own, source.name)])
    for position, (source, name) in islice(enumerate(zip(sources, names, strict=True)), start, end):
        if name in skip or source.name in skip:
            continue
        with setting_aside(source.name, failures):
            clip, scale = _read(source, name, position, taken, say)
            annotation = _annotation(source, clip, point_units, taken, scale)
            if annotation is None:
                yield clip
            else:
                points, occluded, tracker = annotation
                yield with_annotation(clip, points, occluded, query_mode=query_mode, tracker=tracker)


def _read(
    source: Path, name: str, position: int, taken: _Taken, say: Callable[[str], None]
) -> tuple[Clip, tuple[float, float]]:
    """Decode a clip at its reduced size; return it with the scale (x, y) relative to the file's size."""
    wanted = taken.frames
    stream = open_video(source, start=wanted.start, max_frames=wanted.max_frames, every=wanted.every)
    for note in stream.notes:
        say(f"{source.name}: {note}")
    height, width = taken.size(stream.height, stream.width)
    expected = stream.num_frames or 0
    if expected * height * width * 3 > most_bytes():
        raise MediaError(
            f"{expected} frames of {width}x{height} need {expected * height * width * 3 / 1e9:.1f} GB, more than half "
            "of this machine's memory; set synthesize.folder.max_frames, every or longest_side"
        )
    small = (resize_frames(frame[None], height, width)[0] for frame in stream)
    frames = gathered(small, source.name, expected=expected, first=wanted.start)
    check_length(len(frames))
    details = {"file": source.name, "position": position}
    if not taken.all_frames or (height, width) != (stream.height, stream.width):
        details["taken"] = {
            "first_frame": wanted.start,
            "every": wanted.every,
            "file_size": [stream.height, stream.width],
        }
    clip = Clip(name=name, frames=frames, fps=stream.fps, prompt="", source="folder", details=details)
    return clip, (width / stream.width, height / stream.height)


def _clip_names(sources: list[Path]) -> list[str]:
    """Name clips by the stems of their files; files with equal stems, such as `a.mp4` and `a.mov`, by full name."""
    stems = [source.stem if source.is_file() else source.name for source in sources]
    return unique_names(
        [source.name if stems.count(stem) > 1 else stem for source, stem in zip(sources, stems, strict=True)]
    )


def _sources(path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """List the clips at a path, with lines about what was left out."""
    if path.is_file() or is_image_folder(path):
        return [path], ()
    if not path.is_dir():
        raise DatasetError(f"{path}: the file or folder does not exist")
    listing = list_folder(path)
    return natural_order([*listing.videos, *listing.image_folders]), listing.left_out


def _annotation(
    source: Path, clip: Clip, units: PointUnits, taken: _Taken, scale: tuple[float, float]
) -> tuple[Float[np.ndarray, "point frame xy"], Bool[np.ndarray, "point frame"], str] | None:
    """Read a clip's annotation: points in pixels, occlusion, and the source of the points."""
    base = source.with_suffix("") if source.is_file() else source
    arrays, table = base.parent / f"{base.name}.npz", base.parent / f"{base.name}.csv"
    frames = taken.frames.start + taken.frames.every * np.arange(clip.num_frames)
    if arrays.exists():
        points, occluded, tracker = _from_arrays(arrays)
        if points.shape[1] != clip.num_frames and (taken.all_frames or points.shape[1] <= frames[-1]):
            raise DatasetError(f"{arrays.name} annotates {points.shape[1]} frames, but the clip has {clip.num_frames}")
        points, occluded = points[:, frames], occluded[:, frames]
    elif table.exists():
        (points, occluded), tracker = _from_table(table, frames, cut=not taken.all_frames), ANNOTATED
    else:
        return None
    if units == "auto":
        largest = np.nanmax(np.abs(points[~occluded]), initial=0.0)
        units = "fraction" if largest <= _LARGEST_FRACTION else "px"
    with np.errstate(over="ignore"):  # infinite positions are reported later with their point and frame
        return points * ((clip.width, clip.height) if units == "fraction" else scale), occluded, tracker


def _from_arrays(path: Path) -> tuple[Float[np.ndarray, "point frame xy"], Bool[np.ndarray, "point frame"], str]:
    try:
        stored = read_arrays(path, ("points", "occluded", "tracker"))
        points = np.asarray(stored["points"], dtype=np.float64)
        occluded = np.asarray(stored.get("occluded", np.zeros(points.shape[:-1])), dtype=bool)
        tracker = str(stored.get("tracker", ANNOTATED))
    except (KeyError, ValueError, OSError) as error:
        raise DatasetError(f"{path.name}: contains no usable `points` ({error})") from error
    if points.shape != (*occluded.shape, 2) or points.ndim != 3:
        raise DatasetError(
            f"{path.name}: points are {points.shape} and occluded {occluded.shape}; expected [point, frame, 2] and "
            "[point, frame]"
        )
    return points, occluded, tracker


def _from_table(
    path: Path, frames: Int[np.ndarray, " frame"], *, cut: bool
) -> tuple[Float[np.ndarray, "point frame xy"], Bool[np.ndarray, "point frame"]]:
    rows = [_row(path, line, cells) for line, cells in read_table(path, _COLUMNS)]
    num_frames, place = len(frames), {frame: index for index, frame in enumerate(frames.tolist())}
    index = {label: number for number, label in enumerate(dict.fromkeys(row[0] for row in rows))}
    if (needed := len(index) * num_frames * 17) > MAX_UNPACKED_BYTES:  # two floats and a flag
        raise DatasetError(f"{path.name}: {len(index)} points in {num_frames} frames need {needed} bytes; use fewer")
    points = np.zeros((len(index), num_frames, 2))
    occluded = np.ones((len(index), num_frames), dtype=bool)
    for label, frame, x, y, hidden in rows:
        if frame in place:
            points[index[label], place[frame]] = x, y
            occluded[index[label], place[frame]] = hidden
        elif frame < 0 or not cut:
            raise DatasetError(f"{path.name}: names frame {frame}, but the clip has {num_frames} frames")
    return points, occluded


def _row(path: Path, line: int, cells: Mapping[str, str]) -> tuple[str, int, float, float, bool]:
    point, frame, x, y = (cells[column] for column in _COLUMNS)
    try:
        return point, int(frame), float(x), float(y), _TRUTH[(cells.get("occluded") or "0").lower()]
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{path.name}: line {line} cannot be read ({error!r})") from error
