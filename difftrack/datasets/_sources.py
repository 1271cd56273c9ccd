"""One way in to every kind of foreign clip: what params.yaml says under `folder`."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difftrack.datasets._clips import Clip, TrackedVideo
from difftrack.datasets._errors import ClipFailure, DatasetError, setting_aside
from difftrack.datasets._folders import PointUnits, load_videos
from difftrack.datasets._tapvid import QueryMode, load_tapvid_folder, load_tapvid_pickle

__all__ = ["FolderFormat", "FolderParams", "read_folder"]

FolderFormat = Literal["auto", "tapvid", "kinetics", "rgb_stacking", "robotap", "videos"]
"""`tapvid` and `rgb_stacking`: one pickle; `kinetics`: a folder of shards; `robotap`: either; `videos`: own files."""

_SHARDS = "*_of_0010.pkl"


@dataclass(frozen=True, slots=True)
class FolderParams:
    """Which foreign clips to read, and how.

    Raises:
        ValueError: a number is out of range.
    """

    path: Path
    """A pickle, a video, or a folder of shards, videos or images."""
    format: FolderFormat = "auto"
    """What lies at `path`; auto goes by names and content."""
    query_mode: QueryMode = "first"
    """TAP-Vid's protocols: a point is asked for where it is first seen, or again in every fifth frame (`strided`)."""
    start: int = 0
    """Clips to leave out at the beginning; clips are in the order of their names."""
    end: int | None = None
    """Number of the first clip to leave out at the end."""
    max_frames: int | None = None
    """Most frames per clip."""
    fps: float | None = None
    """Frames per second to play at; None for what the file says, and 24 where it says nothing."""
    prompts: Path | None = None
    """A text file with one prompt a line, in the order of the clips; without it prompts are empty."""
    point_units: PointUnits = "auto"
    """Units of npz and csv annotation; TAP-Vid's pickles are always fractions."""
    skip: tuple[str, ...] = ()
    """Names of clips to leave out, such as those that a run could not use; the others keep their numbers."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"start={self.start}, end={self.end}; wanted: 0 <= start < end")
        if self.max_frames is not None and self.max_frames < 2:
            raise ValueError(f"max_frames is {self.max_frames}; tracking needs at least 2")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be positive")


def read_folder(params: FolderParams, failures: list[ClipFailure] | None = None) -> Iterator[Clip | TrackedVideo]:
    """Read foreign clips one at a time; a `TrackedVideo` where they came with annotation.

    Args:
        params: What to read.
        failures: Takes the clips that cannot be used, and the others go on; without it the first one raises.

    Raises:
        DatasetError: there is nothing to read, nothing has a name in `skip`, the prompts do not reach, or, without
            `failures`, a clip is unusable.
    """
    prompts = None if params.prompts is None else _lines(params.prompts)
    names: set[str] = set()
    for item in _read(params, failures):
        clip = item.clip if isinstance(item, TrackedVideo) else item
        with setting_aside(clip.name, failures):
            if clip.name in names:
                raise DatasetError(f"an earlier clip has the same name; rename one of them (this is {_own(clip)})")
            names.add(clip.name)
            changed = dataclasses.replace(clip, fps=params.fps or clip.fps, prompt=_prompt(clip, prompts))
            yield TrackedVideo(changed, item.tracks) if isinstance(item, TrackedVideo) else changed


def _read(params: FolderParams, failures: list[ClipFailure] | None) -> Iterator[Clip | TrackedVideo]:
    path, mode, kind, skip = params.path, params.query_mode, params.format, params.skip
    if kind == "auto":
        kind = _recognise(path)
    start, end, max_frames = params.start, params.end, params.max_frames
    if kind == "videos":
        units = params.point_units
        return load_videos(
            path, mode, start=start, end=end, max_frames=max_frames, point_units=units, skip=skip, failures=failures
        )
    if path.is_dir():
        pattern = _SHARDS if kind == "kinetics" else "*.pkl"
        return load_tapvid_folder(
            path, mode, pattern=pattern, start=start, end=end, max_frames=max_frames, skip=skip, failures=failures
        )
    return load_tapvid_pickle(path, mode, start=start, end=end, max_frames=max_frames, skip=skip, failures=failures)


def _recognise(path: Path) -> FolderFormat:
    if path.suffix == ".pkl":
        return "tapvid"
    if any(path.glob(_SHARDS)):
        return "kinetics"
    return "robotap" if any(path.glob("*.pkl")) else "videos"


def _own(clip: Clip) -> str:
    return str(clip.details.get("entry", clip.details["file"]))


def _prompt(clip: Clip, prompts: list[str] | None) -> str:
    if prompts is None:
        return clip.prompt
    position = int(clip.details["position"])
    if position >= len(prompts):
        raise DatasetError(f"is clip number {position} and the file of prompts has {len(prompts)} lines")
    return prompts[position]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: the prompts cannot be read ({error})") from error
