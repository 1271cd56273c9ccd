"""The user's own files: videos or folders of images, with annotation beside them where there is any."""

import csv
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from difftrack.arrays import MAX_UNPACKED_BYTES, read_arrays
from difftrack.datasets._clips import Clip, TrackedVideo, check_length, plain_name
from difftrack.datasets._errors import ClipFailure, DatasetError, refuse_unknown, setting_aside
from difftrack.datasets._params import PointUnits, QueryMode
from difftrack.datasets._tapvid import with_annotation
from difftrack.datasets._truth import ANNOTATED
from difftrack.media import VIDEO_SUFFIXES, is_image_folder, natural_order, read_video

__all__ = ["load_videos"]

_LARGEST_FRACTION = 1.5
"""With `auto`, positions that all lie below this are fractions: in pixels they would share the top left corner."""
_COLUMNS = ("point", "frame", "x", "y")
_TRUTH = {"0": False, "1": True, "false": False, "true": True}


def load_videos(
    path: Path,
    query_mode: QueryMode = "first",
    *,
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    point_units: PointUnits = "auto",
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
) -> Iterator[Clip | TrackedVideo]:
    """Read a video, a folder of images, or a folder of such, in natural order of their names, one at a time.

    Beside `name.mp4` (or the image folder `name`) may lie its annotation, `name.npz` with `points`
    [point, frame, xy] and, optionally, `occluded` [point, frame] and `tracker`, or `name.csv` with the columns point,
    frame, x, y and, optionally, occluded; a row that is missing means occluded, a cell of `occluded` that is missing
    does not. `tracker` is the name of the tracker that gave the points, which are then its pseudo-truth; without it
    they count as annotated by people.

    Args:
        path: A video file, a folder of images, or a folder of videos and image folders.
        query_mode: How query points are chosen from annotation.
        start: Clips to leave out at the beginning.
        end: Number of the first clip to leave out at the end; None for none.
        max_frames: Most frames per clip.
        point_units: Units of the annotation.
        skip: Clips to leave out, by their name or their file's; the others keep their numbers.
        failures: Takes the clips that cannot be used, and the others go on; without it the first one raises.

    Yields:
        A `TrackedVideo` where there is annotation, else a `Clip`.

    Raises:
        DatasetError: there is nothing at `path` that could be read, or nothing has a name in `skip`.
    """
    sources = _sources(path)
    if not sources:
        raise DatasetError(f"{path}: holds neither videos ({', '.join(sorted(VIDEO_SUFFIXES))}) nor folders of images")
    refuse_unknown(skip, [name for source in sources for name in (_clip_name(source), source.name)])
    for position, source in islice(enumerate(sources), start, end):
        if _clip_name(source) in skip or source.name in skip:
            continue
        with setting_aside(source.name, failures):
            video = read_video(source, max_frames=max_frames)
            check_length(len(video.frames))
            clip = Clip(
                name=_clip_name(source),
                frames=video.frames,
                fps=video.fps,
                prompt="",
                source="folder",
                details={"file": source.name, "position": position},
            )
            annotation = _annotation(source, clip, point_units, cut=max_frames is not None)
            if annotation is None:
                yield clip
            else:
                points, occluded, tracker = annotation
                yield with_annotation(clip, points, occluded, query_mode=query_mode, tracker=tracker)


def _clip_name(source: Path) -> str:
    return plain_name(source.stem if source.is_file() else source.name)


def _sources(path: Path) -> list[Path]:
    if path.is_file() or is_image_folder(path):
        return [path]
    if not path.is_dir():
        raise DatasetError(f"{path}: there is no such file or folder")
    return natural_order(
        item
        for item in path.iterdir()
        if (item.is_file() and item.suffix.lower() in VIDEO_SUFFIXES) or is_image_folder(item)
    )


def _annotation(
    source: Path, clip: Clip, units: PointUnits, *, cut: bool
) -> tuple[Float[np.ndarray, "point frame xy"], Bool[np.ndarray, "point frame"], str] | None:
    """Read the points beside a clip, in pixels, where the points are hidden, and what gave them."""
    base = source.with_suffix("") if source.is_file() else source
    arrays, table = base.parent / f"{base.name}.npz", base.parent / f"{base.name}.csv"
    if arrays.exists():
        points, occluded, tracker = _from_arrays(arrays)
        if points.shape[1] != clip.num_frames and not (cut and points.shape[1] > clip.num_frames):
            raise DatasetError(f"{arrays.name} annotates {points.shape[1]} frames, the clip has {clip.num_frames}")
        points, occluded = points[:, : clip.num_frames], occluded[:, : clip.num_frames]
    elif table.exists():
        (points, occluded), tracker = _from_table(table, clip.num_frames, cut=cut), ANNOTATED
    else:
        return None
    if units == "auto":
        largest = np.nanmax(np.abs(points[~occluded]), initial=0.0)
        units = "fraction" if largest <= _LARGEST_FRACTION else "px"
    with np.errstate(over="ignore"):  # what becomes infinite is refused with its point and frame
        return points * ((clip.width, clip.height) if units == "fraction" else (1.0, 1.0)), occluded, tracker


def _from_arrays(path: Path) -> tuple[Float[np.ndarray, "point frame xy"], Bool[np.ndarray, "point frame"], str]:
    try:
        stored = read_arrays(path, ("points", "occluded", "tracker"))
        points = np.asarray(stored["points"], dtype=np.float64)
        occluded = np.asarray(stored.get("occluded", np.zeros(points.shape[:-1])), dtype=bool)
        tracker = str(stored.get("tracker", ANNOTATED))
    except (KeyError, ValueError, OSError) as error:
        raise DatasetError(f"{path.name}: holds no usable `points` ({error})") from error
    if points.shape != (*occluded.shape, 2) or points.ndim != 3:
        raise DatasetError(
            f"{path.name}: points are {points.shape} and occluded {occluded.shape}; wanted: [point, frame, 2] and "
            "[point, frame]"
        )
    return points, occluded, tracker


def _from_table(
    path: Path, num_frames: int, *, cut: bool
) -> tuple[Float[np.ndarray, "point frame xy"], Bool[np.ndarray, "point frame"]]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins its files with a byte order mark
        reader = csv.DictReader(file)
        try:
            columns = reader.fieldnames or []
            rows = [_row(cells) for cells in reader] if set(_COLUMNS) <= set(columns) else None
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path.name}: is no UTF-8 text ({error})") from error
        except (TypeError, KeyError, ValueError, csv.Error) as error:
            raise DatasetError(f"{path.name}: line {reader.line_num} cannot be read ({error!r})") from error
    if rows is None:
        raise DatasetError(f"{path.name}: columns are {', '.join(columns)}; wanted: {', '.join(_COLUMNS)}")
    index = {label: number for number, label in enumerate(dict.fromkeys(row[0] for row in rows))}
    if (needed := len(index) * num_frames * 17) > MAX_UNPACKED_BYTES:  # two floats and a flag
        raise DatasetError(f"{path.name}: {len(index)} points over {num_frames} frames are {needed} bytes; take fewer")
    points = np.zeros((len(index), num_frames, 2))
    occluded = np.ones((len(index), num_frames), dtype=bool)
    for label, frame, x, y, hidden in rows:
        if 0 <= frame < num_frames:
            points[index[label], frame] = x, y
            occluded[index[label], frame] = hidden
        elif frame < 0 or not cut:
            raise DatasetError(f"{path.name}: names frame {frame}; the clip has {num_frames}")
    return points, occluded


def _row(cells: Mapping[str, str | None]) -> tuple[str, int, float, float, bool]:
    point, frame, x, y = (cells[column] or "" for column in _COLUMNS)
    return point, int(frame), float(x), float(y), _TRUTH[(cells.get("occluded") or "0").lower()]
