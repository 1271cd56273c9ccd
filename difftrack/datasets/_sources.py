"""One way in to every kind of foreign clip: what params.yaml says under `folder`."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from difftrack.datasets._clips import Clip, TrackedVideo
from difftrack.datasets._errors import ClipFailure, DatasetError, setting_aside
from difftrack.datasets._folders import load_videos
from difftrack.datasets._params import FolderFormat, FolderParams
from difftrack.datasets._tapvid import load_tapvid_folder, load_tapvid_pickle
from difftrack.prompts import read_prompts

__all__ = ["read_folder"]

_SHARDS = "*_of_0010.pkl"
_PACKED = (".gz", ".tgz", ".zip", ".tar", ".bz2", ".xz", ".7z", ".rar")


def read_folder(
    params: FolderParams,
    failures: list[ClipFailure] | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Clip | TrackedVideo]:
    """Read foreign clips one at a time; a `TrackedVideo` where they came with annotation.

    Args:
        params: What to read.
        failures: Takes the clips that cannot be used, and the others go on; without it the first one raises.
        say: Told what was left out of a folder, and what was done to frames, a line at a time.

    Raises:
        DatasetError: there is nothing to read, nothing has a name in `skip`, the prompts do not reach, or, without
            `failures`, a clip is unusable.
        PromptError: the file of prompts cannot be read.
    """
    prompts = None if params.prompts is None else [prompt for _, prompt in read_prompts(params.prompts)]
    names: set[str] = set()
    for item in _read(params, failures, say):
        clip = item.clip if isinstance(item, TrackedVideo) else item
        with setting_aside(clip.name, failures):
            if clip.name in names:
                raise DatasetError(f"an earlier clip has the same name; rename one of them (this is {_own(clip)})")
            names.add(clip.name)
            changed = dataclasses.replace(clip, fps=params.fps or clip.fps, prompt=_prompt(clip, prompts))
            yield TrackedVideo(changed, item.tracks) if isinstance(item, TrackedVideo) else changed


def _read(
    params: FolderParams, failures: list[ClipFailure] | None, say: Callable[[str], None]
) -> Iterator[Clip | TrackedVideo]:
    path, mode, kind, skip = params.path, params.query_mode, params.format, params.skip
    if kind == "auto":
        kind = _recognise(path)
    start, end, max_frames = params.start, params.end, params.max_frames
    if kind == "videos":
        return load_videos(
            path,
            mode,
            start=start,
            end=end,
            max_frames=max_frames,
            first_frame=params.first_frame,
            every=params.every,
            longest_side=params.longest_side,
            point_units=params.point_units,
            skip=skip,
            failures=failures,
            say=say,
        )
    if params.first_frame or params.every > 1 or params.longest_side is not None:
        raise DatasetError(f"{path}: first_frame, every and longest_side are for videos, and this is {kind}")
    if path.is_dir():
        pattern = _SHARDS if kind == "kinetics" else "*.pkl"
        return load_tapvid_folder(
            path, mode, pattern=pattern, start=start, end=end, max_frames=max_frames, skip=skip, failures=failures
        )
    return load_tapvid_pickle(path, mode, start=start, end=end, max_frames=max_frames, skip=skip, failures=failures)


def _recognise(path: Path) -> FolderFormat:
    """Go by the name of a file, in whatever case, or by what a folder holds.

    Raises:
        DatasetError: the file is packed, or lies at an address.
    """
    if re.match(r"[a-z0-9+]{2,}:/", str(path), re.IGNORECASE):
        raise DatasetError(f"{path}: is an address; folders and files of this machine are read here, so fetch it first")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return "tapvid"
    if suffix in _PACKED and not path.is_dir():
        raise DatasetError(f"{path}: is packed; unpack it first and name what comes out")
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
        raise DatasetError(
            f"is clip number {position} and the file of prompts has {len(prompts)} lines, blank ones and comments not "
            "counted"
        )
    return prompts[position]
