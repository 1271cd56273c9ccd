"""The files in which clips and tracks pass from stage to stage."""

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


_WAY_OUT = "run the synthesize stage again, which makes the clip anew"

CLIP = ArtifactKind(
    name="a clip",
    marker="clip.json",
    proof=lambda said: is_fingerprint(said["fingerprint"]) and said["source"] in get_args(ClipOrigin),
    files=("clip.json", "frames.mp4", "object_mask.png", "given_tracks.npz", "trajectory.safetensors", ".*.part"),
)
"""What a clip looks like, for all that removes clips or writes them anew."""

_TRACKS = ("points_xy_px", "visible", "query_points", "size", "tracker")


def clip_folders(root: Path, *, known: Collection[str] = ()) -> set[str]:
    """Names of the folders of clips under `root`, damaged and unfinished ones among them; empty folders do not count.

    Args:
        root: Where they lie.
        known: Names of clips, whatever is left of their files.

    Raises:
        DatasetError: something else lies there, which is not this project's to remove.
    """
    folders = [path for path in root.iterdir() if path.is_dir() and any(path.iterdir())]
    for path in folders:
        lost = path.name in known and CLIP.stranger(path) is None
        if problem := None if lost or _is_unfinished(path) else _not_replaceable(path):
            raise DatasetError(
                f"{path} is no clip; move it elsewhere, or set paths.clips to another folder ({problem})"
            )
    return {path.name for path in folders}


def drop_clips(root: Path, names: Iterable[str]) -> None:
    """Remove clips, unfinished ones too, that prove to be this project's.

    Raises:
        DatasetError: one does not; it and those behind it stay.
    """
    for name in sorted(names):
        _remove(root / name, root)


def write_clip(root: Path, clip: Clip, given_tracks: Tracks | None = None) -> None:
    """Write `root`/<name>/ with frames.mp4 (lossless), clip.json and, where there are any, mask and given tracks.

    The folder appears under its name when it is complete; a clip of that name that was there before is replaced.

    Args:
        root: Made if missing.
        clip: The clip.
        given_tracks: The annotation that came with a clip of the user's.

    Raises:
        DatasetError: the given tracks are for another clip, `clip.details` holds what JSON cannot, or a folder of that
            name is no clip of this project.
        MediaError: the frames cannot be written.
    """
    if given_tracks is not None:
        TrackedVideo(clip, given_tracks)
    about = _description(clip)
    part, final = root / f".{clip.name}.part", root / clip.name
    for folder in (part, final):
        if folder.is_dir() and (problem := _not_replaceable(folder)):
            raise DatasetError(f"{folder} is not written over: {problem}; move it elsewhere")
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
    """Write what is known about a clip that lies in `root` already; its frames stay as they are.

    Raises:
        DatasetError: `clip.details` holds what JSON cannot.
    """
    part = root / clip.name / ".clip.json.part"
    part.write_text(_description(clip), encoding="utf-8")
    part.replace(root / clip.name / "clip.json")


def read_clip(root: Path, name: str) -> Clip:
    """Read what `write_clip` wrote.

    Raises:
        DatasetError: the clip is missing or incomplete, or its frames are not those that were written.
        MediaError: a picture or the video cannot be read.
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
        raise DatasetError(f"{folder}: frames.mp4 or the prompt is not what clip.json says; {_WAY_OUT}")
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
    """Where a clip comes from, with the split of a rendered one: `rendered/easy`, `generated`, `folder`.

    Its frames are not looked at.

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
    """The annotation that came with a clip; None where none did."""
    path = root / name / "given_tracks.npz"
    return _load_tracks(path, way_out=_WAY_OUT) if path.exists() else None


def write_tracks(root: Path, name: str, tracks: Tracks) -> None:
    """Write `root`/<name>.npz; the same tracks give the same bytes. `root` is made if missing.

    Raises:
        DatasetError: a file of that name is there and holds no tracks.
    """
    check_name(name)
    if (held := array_names(root / f"{name}.npz")) is not None and not held >= set(_TRACKS):
        raise DatasetError(f"{root / name}.npz holds no tracks and is not written over; move it elsewhere")
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".{name}.part.npz"
    _save_tracks(part, tracks)
    part.rename(root / f"{name}.npz")


def read_tracks(root: Path, name: str) -> Tracks:
    """Read what `write_tracks` wrote.

    Raises:
        DatasetError: the file is missing, cut short, or does not hold tracks.
    """
    return _load_tracks(root / f"{name}.npz", way_out="run the annotate stage again")


def _is_unfinished(folder: Path) -> bool:
    """Whether a folder is what a killed `write_clip` leaves."""
    return folder.name.startswith(".") and folder.name.endswith(".part") and CLIP.stranger(folder) is None


def _not_replaceable(folder: Path) -> str | None:
    """Say why a folder may not be written anew: a clip may, also one whose clip.json is lost or damaged."""
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
        raise DatasetError(f"{path}: there are no such tracks; {way_out}")
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
        raise DatasetError(f"{path}: holds no usable tracks ({error}); {way_out}") from error


def _about(folder: Path) -> dict[str, Any]:
    """What the clip.json of a clip says."""
    if not folder.is_dir():
        names = clip_names(folder.parent) if folder.parent.is_dir() else []
        way_out = _WAY_OUT if folder.name in names else f"have: {', '.join(names) or 'none'}"
        raise DatasetError(f"{folder}: there is no such clip; {way_out}")
    try:
        about = read_json(folder / "clip.json", way_out=_WAY_OUT)
    except ArtifactError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(about, dict):
        raise _unusable(folder, f"it holds {type(about).__name__}")
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
