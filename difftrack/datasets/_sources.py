"""Read any kind of user clip, as set in the section `folder` of params.yaml."""

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
    """Read the user's clips one at a time; an annotated clip is a `TrackedVideo`.

    Args:
        params: What to read.
        failures: Collects the clips that cannot be used, and reading continues; None raises the first failure.
        say: Called with one line for each item left out and each conversion of frames.

    Raises:
        DatasetError: there is nothing to read, `skip` names an unknown clip, there are too few prompts, or, without
            `failures`, a clip cannot be used.
        PromptError: the file of prompts cannot be read.
    """
    prompts = None if params.prompts is None else [prompt for _, prompt in read_prompts(params.prompts)]
    names: set[str] = set()
    for item in _read(params, failures, say):
        clip = item.clip if isinstance(item, TrackedVideo) else item
        with setting_aside(clip.name, failures):
            if clip.name in names:
                raise DatasetError(
                    f"an earlier clip has the same name; rename one of them (this clip is {_own_name(clip)})"
                )
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
        raise DatasetError(f"{path}: first_frame, every and longest_side apply only to videos, and this is {kind}")
    if path.is_dir():
        pattern = _SHARDS if kind == "kinetics" else "*.pkl"
        return load_tapvid_folder(
            path, mode, pattern=pattern, start=start, end=end, max_frames=max_frames, skip=skip, failures=failures
        )
    return load_tapvid_pickle(path, mode, start=start, end=end, max_frames=max_frames, skip=skip, failures=failures)


def _recognise(path: Path) -> FolderFormat:
    """Detect the format from the file's name, ignoring case, or from the folder's content.

    Raises:
        DatasetError: the file is an archive, or `path` is a URL.
    """
    if re.match(r"[a-z0-9+]{2,}:/", str(path), re.IGNORECASE):
        raise DatasetError(f"{path}: is a URL; only local files and folders can be read, so download it first")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return "tapvid"
    if suffix in _PACKED and not path.is_dir():
        raise DatasetError(f"{path}: is an archive; unpack it first and give the path of its content")
    if any(path.glob(_SHARDS)):
        return "kinetics"
    return "robotap" if any(path.glob("*.pkl")) else "videos"


def _own_name(clip: Clip) -> str:
    return str(clip.details.get("entry", clip.details["file"]))


def _prompt(clip: Clip, prompts: list[str] | None) -> str:
    if prompts is None:
        return clip.prompt
    position = int(clip.details["position"])
    if position >= len(prompts):
        raise DatasetError(
            f"is clip number {position}, but the file of prompts has only {len(prompts)} prompts; blank lines and "
            "comments do not count"
        )
    return prompts[position]
