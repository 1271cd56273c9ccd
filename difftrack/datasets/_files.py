"""Files that pass clips and tracks between stages."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from difftrack.arrays import array_names
from difftrack.artifacts import ArtifactError, read_arrays, read_json
from difftrack.datasets._clips import Clip, ClipOrigin, ClipOutline, TrackedVideo, Tracks
from difftrack.datasets._errors import DatasetError
from difftrack.datasets._manifest import clip_names
from difftrack.datasets._names import check_name
from difftrack.media import MediaError, is_lossless, read_image, read_video, write_image, write_video
from difftrack.ownership import ArtifactKind, OwnershipError, is_fingerprint, remove

__all__ = [
    "CLIP",
    "clip_folders",
    "describe_clip",
    "drop_clips",
    "read_clip",
    "read_clip_kind",
    "read_clip_outline",
    "read_given_tracks",
    "read_tracks",
    "write_clip",
    "write_tracks",
]


_WAY_OUT = "run the synthesize stage again to recreate the clip"

CLIP = ArtifactKind(
    name="a clip",
    marker="clip.json",
    proof=lambda content: is_fingerprint(content["fingerprint"]) and content["source"] in get_args(ClipOrigin),
    files=("clip.json", "frames.mp4", "object_mask.png", "given_tracks.npz", "trajectory.safetensors", ".*.part"),
)
"""How to recognise a clip's folder before it is removed or replaced."""

_TRACKS = ("points_xy_px", "visible", "query_points", "size", "tracker")


def clip_folders(root: Path, *, known: Collection[str] = ()) -> set[str]:
    """List the names of the clip folders in `root`, including damaged and unfinished ones; empty folders do not count.

    Args:
        root: The folder of clips.
        known: Names of clips that count even if their marker file is lost.

    Raises:
        DatasetError: `root` contains a folder that does not belong to this project.
    """
    folders = [path for path in root.iterdir() if path.is_dir() and any(path.iterdir())]
    for path in folders:
        lost = path.name in known and CLIP.stranger(path) is None
        if problem := None if lost or _is_unfinished(path) else _not_replaceable(path):
            raise DatasetError(
                f"{path} is not a clip; move it elsewhere, or set paths.clips to another folder ({problem})"
            )
    return {path.name for path in folders}


def drop_clips(root: Path, names: Iterable[str]) -> None:
    """Remove finished and unfinished clips, after checking that they belong to this project.

    Raises:
        DatasetError: a folder does not belong to this project; it and the folders after it are kept.
    """
    for name in sorted(names):
        _remove(root / name, root)


def write_clip(root: Path, clip: Clip, given_tracks: Tracks | None = None) -> None:
    """Write `root`/<name>/ with frames.mp4 (lossless), clip.json and, if present, the mask and the given tracks.

    The folder appears under its name only when it is complete. It replaces an earlier clip of the same name.

    Args:
        root: The folder of clips; created if missing.
        clip: The clip.
        given_tracks: The annotation supplied with a user's clip.

    Raises:
        DatasetError: the given tracks are for another clip, `clip.details` cannot be written as JSON, or a folder of
            that name is not a clip of this project.
        MediaError: the frames cannot be written.
    """
    if given_tracks is not None:
        TrackedVideo(clip, given_tracks)
    about = _description(clip)
    part, final = root / f".{clip.name}.part", root / clip.name
    for folder in (part, final):
        if folder.is_dir() and (problem := _not_replaceable(folder)):
            raise DatasetError(f"{folder} was not overwritten: {problem}; move it elsewhere")
    _remove(part, root)
    part.mkdir(parents=True)
    write_video(part / "frames.mp4", clip.frames, clip.fps, lossless=True)
    if clip.object_mask is not None:
        write_image(part / "object_mask.png", clip.object_mask.astype(np.uint8) * 255)
    if given_tracks is not None:
        _save_tracks(part / "given_tracks.npz", given_tracks)
    (part / "clip.json").write_text(about, encoding="utf-8")
    _remove(final, root)
    part.rename(final)


def describe_clip(root: Path, clip: Clip) -> None:
    """Rewrite the clip.json of a clip in `root`; its frames do not change.

    Raises:
        DatasetError: `clip.details` cannot be written as JSON.
    """
    part = root / clip.name / ".clip.json.part"
    part.write_text(_description(clip), encoding="utf-8")
    part.replace(root / clip.name / "clip.json")


def read_clip(root: Path, name: str) -> Clip:
    """Read a clip that `write_clip` wrote.

    Raises:
        DatasetError: the clip is missing or incomplete, or its frames differ from those that were written.
        MediaError: the mask or the video cannot be read.
    """
    folder = root / name
    about = _about(folder)
    try:
        known = {key: about[key] for key in ("fps", "prompt", "source", "seed", "details", "fingerprint")}
        fingerprint = known.pop("fingerprint")
        mask = folder / "object_mask.png"
        clip = Clip(
            name=name,
            frames=read_video(folder / "frames.mp4").frames,
            object_mask=read_image(mask)[..., 0] > 127 if mask.exists() else None,
            **known,
        )
    except (KeyError, TypeError) as error:
        raise _unusable(folder, error) from error
    except MediaError as error:
        raise MediaError(f"{error}; {_WAY_OUT}") from error
    if clip.fingerprint() != fingerprint:
        raise DatasetError(f"{folder}: frames.mp4 or the prompt does not match clip.json; {_WAY_OUT}")
    return clip


def read_clip_outline(root: Path, name: str) -> ClipOutline:
    """What is known of a clip without decoding it, which takes seconds for a long one; `read_clip` proves it.

    Raises:
        DatasetError: the clip is missing, or its clip.json is damaged.
    """
    folder = root / name
    about = _about(folder)
    try:
        counts = {key: int(about[key]) for key in ("num_frames", "height", "width")}
        prompt, source, digest = (about[key] for key in ("prompt", "source", "fingerprint"))
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(folder, error) from error
    proven = is_fingerprint(digest) and source in get_args(ClipOrigin) and isinstance(prompt, str)
    if not proven or min(counts.values()) < 1:
        raise _unusable(folder, "it describes no clip")
    if not (folder / "frames.mp4").is_file():
        raise DatasetError(f"{folder}: frames.mp4 is missing; {_WAY_OUT}")
    return ClipOutline(name=name, prompt=prompt, source=source, digest=digest, **counts)


def read_clip_kind(root: Path, name: str) -> str:
    """Return a clip's source, and the split of a rendered clip: `rendered/easy`, `generated`, `folder`.

    The frames are not read.

    Raises:
        DatasetError: the clip is missing, or its clip.json is damaged.
    """
    found = _about(root / name)
    try:
        split = found["details"].get("render", {}).get("split")
        return f"{found['source']}/{split}" if split else str(found["source"])
    except (KeyError, AttributeError) as error:
        raise _unusable(root / name, error) from error


def read_given_tracks(root: Path, name: str) -> Tracks | None:
    """Read the annotation supplied with a clip; None if there is none."""
    path = root / name / "given_tracks.npz"
    return _load_tracks(path, way_out=_WAY_OUT) if path.exists() else None


def write_tracks(root: Path, name: str, tracks: Tracks) -> None:
    """Write `root`/<name>.npz; the same tracks give the same bytes. `root` is created if missing.

    Raises:
        DatasetError: a file of that name exists and does not contain tracks.
    """
    check_name(name)
    if (held := array_names(root / f"{name}.npz")) is not None and not held >= set(_TRACKS):
        raise DatasetError(f"{root / name}.npz does not contain tracks and was not overwritten; move it elsewhere")
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".{name}.part.npz"
    _save_tracks(part, tracks)
    part.rename(root / f"{name}.npz")


def read_tracks(root: Path, name: str) -> Tracks:
    """Read tracks that `write_tracks` wrote.

    Raises:
        DatasetError: the file is missing, truncated, or does not contain tracks.
    """
    return _load_tracks(root / f"{name}.npz", way_out="run the annotate stage again")


def _is_unfinished(folder: Path) -> bool:
    """Whether a folder was left by a killed `write_clip`."""
    return folder.name.startswith(".") and folder.name.endswith(".part") and CLIP.stranger(folder) is None


def _not_replaceable(folder: Path) -> str | None:
    """Return why a folder must not be replaced, or None for a clip, even if its clip.json is lost or damaged."""
    if problem := CLIP.stranger(folder):
        return problem
    if (
        _is_unfinished(folder)
        or not any(folder.iterdir())
        or (folder / CLIP.marker).exists()
        or is_lossless(folder / "frames.mp4")
    ):
        return None
    return CLIP.unmarked(folder)


def _remove(folder: Path, root: Path) -> None:
    try:
        remove(folder, _not_replaceable(folder) if folder.is_dir() else None, folder=root)
    except OwnershipError as error:
        raise DatasetError(str(error)) from error


def _save_tracks(path: Path, tracks: Tracks) -> None:
    np.savez(
        path,
        points_xy_px=tracks.points_xy_px,
        visible=tracks.visible,
        query_points=tracks.query_points,
        size=np.asarray([tracks.height, tracks.width]),
        tracker=np.asarray(tracks.tracker),
    )


def _load_tracks(path: Path, *, way_out: str) -> Tracks:
    if not path.exists():
        raise DatasetError(f"{path}: the tracks do not exist; {way_out}")
    try:
        arrays = read_arrays(path, way_out=way_out)
    except ArtifactError as error:
        raise DatasetError(str(error)) from error
    try:
        height, width = (int(value) for value in arrays["size"])
        return Tracks(
            points_xy_px=arrays["points_xy_px"],
            visible=arrays["visible"],
            query_points=arrays["query_points"],
            height=height,
            width=width,
            tracker=str(arrays["tracker"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{path}: contains no usable tracks ({error}); {way_out}") from error


def _about(folder: Path) -> dict[str, Any]:
    """Read the clip.json of a clip."""
    if not folder.is_dir():
        names = clip_names(folder.parent) if folder.parent.is_dir() else []
        way_out = _WAY_OUT if folder.name in names else f"available: {', '.join(names) or 'none'}"
        raise DatasetError(f"{folder}: the clip does not exist; {way_out}")
    try:
        about = read_json(folder / "clip.json", way_out=_WAY_OUT)
    except ArtifactError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(about, dict):
        raise _unusable(folder, f"it contains a {type(about).__name__} instead of an object")
    return about


def _unusable(folder: Path, cause: object) -> DatasetError:
    return DatasetError(f"{folder / 'clip.json'}: cannot be used ({cause!r}); {_WAY_OUT}")


def _description(clip: Clip) -> str:
    about: dict[str, Any] = {
        "name": clip.name,
        "fps": clip.fps,
        "prompt": clip.prompt,
        "source": clip.source,
        "seed": clip.seed,
        "details": dict(clip.details),
        "num_frames": clip.num_frames,
        "height": clip.height,
        "width": clip.width,
        "fingerprint": clip.fingerprint(),
    }
    try:
        return json.dumps(about, indent=2, sort_keys=True) + "\n"
    except TypeError as error:
        raise DatasetError(f"clip {clip.name}: details cannot be written as JSON ({error})") from error
