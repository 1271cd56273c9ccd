"""One way in to every kind of foreign clip: what params.yaml says under `folder`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from difftrack.datasets._clips import Clip, TrackedVideo
from difftrack.datasets._errors import ClipFailure, DatasetError, setting_aside
from difftrack.datasets._folders import load_videos
from difftrack.datasets._params import FolderFormat, FolderParams
from difftrack.datasets._tapvid import load_tapvid_folder, load_tapvid_pickle

__all__ = ["read_folder"]

_SHARDS = "*_of_0010.pkl"


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
