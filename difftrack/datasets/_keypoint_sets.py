"""Read JHMDB and BADJA in their published layout: videos with keypoints of people and of animals.

JHMDB (Jhuang et al. 2013, ICCV):

    Rename_Images/ACTION/VIDEO/00001.png
    joint_positions/ACTION/VIDEO/joint_positions.mat     pos_img [xy, joint, frame], MATLAB's 1-based pixels
    splits/ACTION_test_split1.txt                        lines `VIDEO.avi 2`: 1 for training, 2 for testing, 0 for
    neither

BADJA (Biggs et al. 2018, arXiv 1811.05804):

    joint_annotations/NAME.json     a list of {image_path, segmentation_path, joints [[row, col], ...], visibility}
    DAVIS/JPEGImages/..., extra_videos/...     the files named by the paths, relative to the data set's folder
"""

import io
import math
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from difftrack.datasets._clips import Clip, check_length
from difftrack.datasets._errors import ClipFailure, DatasetError, refuse_unknown, setting_aside
from difftrack.datasets._labelled import KeypointVideo
from difftrack.datasets._names import plain_name
from difftrack.documents import read_bounded, read_json
from difftrack.media import IMAGE_SUFFIXES, is_image_folder, natural_order, read_mask, read_video

__all__ = ["load_badja", "load_jhmdb"]

_MOST_TEXT_BYTES = 1 << 20
_MOST_MAT_BYTES = 1 << 18
_MOST_NUMBERS = 1 << 22
"""Maximum number of values in one array of a MATLAB file."""
_CENTRE = 0.5
"""Position of the first pixel's centre in this project's coordinates."""


def load_jhmdb(
    root: Path,
    *,
    split: int | None = 1,
    part: int = 2,
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
) -> Iterator[KeypointVideo]:
    """Read the clips of JHMDB with their 15 joints, one at a time, sorted by action and name.

    Args:
        root: Folder that contains `Rename_Images`, `joint_positions` and, for a split, `splits`.
        split: 1, 2 or 3; None reads every clip.
        part: 2 for the test clips, 1 for the training clips.
        start: Number of clips to skip at the beginning.
        end: Index of the first clip that is not read; None reads to the end.
        max_frames: Maximum number of frames per clip.
        skip: Names of clips to leave out.
        failures: Collects the clips that cannot be used, and reading continues; None raises the first failure.

    Raises:
        DatasetError: a folder or the split is missing, or `skip` names an unknown clip.
    """
    pictures, joints = root / "Rename_Images", root / "joint_positions"
    if not pictures.is_dir() or not joints.is_dir():
        raise DatasetError(f"{root}: does not contain Rename_Images and joint_positions; give JHMDB's folder with both")
    clips = [
        (action.name, clip.name)
        for action in natural_order(item for item in pictures.iterdir() if item.is_dir())
        for clip in natural_order(item for item in action.iterdir() if is_image_folder(item))
    ]
    if split is not None:
        wanted = _jhmdb_split(root / "splits", split, part)
        clips = [clip for clip in clips if clip in wanted]
    if not clips:
        raise DatasetError(f"{pictures}: contains no clip{'' if split is None else f' of split {split}, part {part}'}")
    refuse_unknown(skip, [name for _, name in clips])
    for action, name in islice(clips, start, end):
        if name in skip:
            continue
        with setting_aside(name, failures):
            clip = _clip(name, pictures / action / name, max_frames)
            stored = _mat_array(joints / action / name / "joint_positions.mat", "pos_img")
            if stored.ndim != 3 or stored.shape[0] != 2 or stored.shape[2] < clip.num_frames:
                raise DatasetError(
                    f"pos_img is {stored.shape} for {clip.num_frames} frames; expected [2, joint, frame]"
                )
            points = (stored.transpose(2, 1, 0)[: clip.num_frames] - 1 + _CENTRE).astype(np.float32)
            yield KeypointVideo(clip, points, np.asarray(np.isfinite(points).all(axis=-1)))


def load_badja(
    root: Path,
    *,
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
) -> Iterator[KeypointVideo]:
    """Read the videos of BADJA with their joints and masks, one at a time, sorted by name.

    A video starts at its first annotated frame and includes all later images in that frame's folder; most of them are
    not annotated.

    Args:
        root: Folder that contains `joint_annotations` and the folders named in its files.
        start: Number of videos to skip at the beginning.
        end: Index of the first video that is not read; None reads to the end.
        max_frames: Maximum number of frames per video.
        skip: Names of videos to leave out.
        failures: Collects the videos that cannot be used, and reading continues; None raises the first failure.

    Raises:
        DatasetError: there is no annotation, or `skip` names an unknown video.
    """
    files = natural_order((root / "joint_annotations").glob("*.json"))
    if not files:
        raise DatasetError(f"{root}: contains no joint_annotations/*.json; give the folder of BADJA")
    refuse_unknown(skip, [file.stem for file in files])
    for file in islice(files, start, end):
        if file.stem in skip:
            continue
        with setting_aside(file.stem, failures):
            yield _badja_video(root, file, max_frames)


def _clip(name: str, folder: Path, max_frames: int | None, first: int = 0) -> Clip:
    if not is_image_folder(folder):
        raise DatasetError(f"{folder}: contains no images")
    video = read_video(folder, start=first, max_frames=max_frames)
    check_length(len(video.frames))
    return Clip(plain_name(name), video.frames, video.fps, "", "folder", details={"folder": folder.name})


def _jhmdb_split(folder: Path, split: int, part: int) -> set[tuple[str, str]]:
    ending = f"_test_split{split}.txt"
    wanted = set()
    for path in folder.glob(f"*{ending}"):
        for line in read_bounded(path, max_bytes=_MOST_TEXT_BYTES).decode().splitlines():
            name, _, label = line.strip().rpartition(" ")
            if label == str(part):
                wanted.add((path.name.removesuffix(ending), name.strip().removesuffix(".avi")))
    if not wanted:
        raise DatasetError(f"{folder}: contains no *{ending} with clips of part {part}; split=None reads all clips")
    return wanted


def _mat_array(path: Path, name: str) -> Float[np.ndarray, "..."]:
    """Read one numeric array from a MATLAB file (version 5), after checking its declared type and size."""
    from scipy.io import loadmat, whosmat

    try:
        content = read_bounded(path, max_bytes=_MOST_MAT_BYTES)
        claims = {known: (shape, kind) for known, shape, kind in whosmat(io.BytesIO(content))}
        shape, kind = claims[name]
        if kind not in ("double", "single") or math.prod(shape) > _MOST_NUMBERS:
            raise ValueError(f"{name} is {kind} {shape}; at most {_MOST_NUMBERS} floats are read")
        return np.asarray(loadmat(io.BytesIO(content), variable_names=[name])[name], dtype=np.float64)
    except Exception as error:  # scipy raises many kinds of exceptions for damaged files
        cause = f"contains no {name}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DatasetError(f"{path.name}: is not a readable MATLAB file ({cause})") from error


def _badja_video(root: Path, file: Path, max_frames: int | None) -> KeypointVideo:
    entries = read_json(file)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"{file.name}: is not a list of annotated frames")
    pictures = [_inside(root, entry, "image_path") for entry in entries]
    folder = pictures[0].parent
    if any(picture.parent != folder for picture in pictures):
        raise DatasetError(f"{file.name}: names images in several folders; all must be in one folder")
    names = [path.name for path in natural_order(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)]
    if missing := sorted({picture.name for picture in pictures} - set(names)):
        raise DatasetError(f"{folder}: does not contain {missing[0]}, which {file.name} annotates")
    first = min(names.index(picture.name) for picture in pictures)
    clip = _clip(file.stem, folder, max_frames, first)
    joints = [_joints(entry) for entry in entries]
    counts = {len(visible) for _, visible in joints}
    if len(counts) != 1:
        raise DatasetError(f"{file.name}: frames have {sorted(counts)} joints; all frames must have the same number")
    points = np.zeros((clip.num_frames, counts.pop(), 2), dtype=np.float32)
    known = np.zeros(points.shape[:2], dtype=bool)
    masks = np.zeros(clip.frames.shape[:3], dtype=bool)
    for entry, picture, (xy, visible) in zip(entries, pictures, joints, strict=True):
        frame = names.index(picture.name) - first
        if frame < clip.num_frames:
            points[frame], known[frame] = xy, visible
            masks[frame] = _silhouette(_inside(root, entry, "segmentation_path"), clip.height, clip.width)
    return KeypointVideo(clip, points, known, masks)


def _inside(root: Path, entry: Mapping[str, Any], key: str) -> Path:
    """Resolve a path from an annotation, which must lie inside the data set's folder."""
    named = entry.get(key)
    parts = PurePosixPath(named).parts if isinstance(named, str) else ("..",)
    if not parts or PurePosixPath(*parts).is_absolute() or ".." in parts:
        raise DatasetError(f"{key} is {named!r}; it must be a path inside the folder of the data set")
    return root.joinpath(*parts)


def _joints(entry: Mapping[str, Any]) -> tuple[Float32[np.ndarray, "point xy"], Bool[np.ndarray, " point"]]:
    try:
        rows_cols = np.asarray(entry["joints"], dtype=np.float64)
        visible = np.asarray(entry["visibility"], dtype=np.float64) > 0
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"joints and visibility cannot be read ({error})") from error
    if rows_cols.shape != (*visible.shape, 2) or visible.ndim != 1:
        raise DatasetError(f"joints are {rows_cols.shape}, visibility {visible.shape}; expected [joint, 2] and [joint]")
    return (rows_cols[:, ::-1] + _CENTRE).astype(np.float32), visible


def _silhouette(path: Path, height: int, width: int) -> Bool[np.ndarray, "row col"]:
    """Read the animal's mask and resize it to the size of the frames."""
    mask = read_mask(path) > 0
    rows, cols = (
        ((np.arange(count) + _CENTRE) * own / count).astype(int)
        for count, own in ((height, mask.shape[0]), (width, mask.shape[1]))
    )
    return np.asarray(mask[rows[:, None], cols])
