"""The files in which clips and tracks pass from stage to stage."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from difftrack.datasets._clips import Clip, TrackedVideo, Tracks, check_name
from difftrack.datasets._errors import DatasetError
from difftrack.documents import DocumentError, read_json
from difftrack.media import read_image, read_video, write_image, write_video

__all__ = [
    "clip_names",
    "read_clip",
    "read_clip_kind",
    "read_given_tracks",
    "read_tracks",
    "write_clip",
    "write_tracks",
]


def clip_names(root: Path) -> list[str]:
    """Names of the complete clips under `root`, sorted."""
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder of clips")
    return sorted(path.parent.name for path in root.glob("*/clip.json") if not path.parent.name.startswith("."))


def write_clip(root: Path, clip: Clip, given_tracks: Tracks | None = None) -> None:
    """Write `root`/<name>/ with frames.mp4 (lossless), clip.json and, where there are any, mask and given tracks.

    The folder appears under its name when it is complete; one of that name that was there before is replaced.

    Args:
        root: Made if missing.
        clip: The clip.
        given_tracks: The annotation that came with a clip of the user's.

    Raises:
        DatasetError: the given tracks are for another clip, or `clip.details` holds what JSON cannot.
        MediaError: the frames cannot be written.
    """
    if given_tracks is not None:
        TrackedVideo(clip, given_tracks)
    about = _description(clip)
    part, final = root / f".{clip.name}.part", root / clip.name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_video(part / "frames.mp4", clip.frames, clip.fps, lossless=True)
    if clip.object_mask is not None:
        write_image(part / "object_mask.png", clip.object_mask.astype(np.uint8) * 255)
    if given_tracks is not None:
        _save_tracks(part / "given_tracks.npz", given_tracks)
    (part / "clip.json").write_text(about)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def read_clip(root: Path, name: str) -> Clip:
    """Read what `write_clip` wrote.

    Raises:
        DatasetError: the clip is missing or incomplete, or its frames are not those that were written.
        MediaError: a picture or the video cannot be read.
    """
    folder = root / name
    try:
        about = read_json(folder / "clip.json")
        known = {key: about[key] for key in ("fps", "prompt", "source", "seed", "details", "fingerprint")}
        fingerprint = known.pop("fingerprint")
        mask = folder / "object_mask.png"
        clip = Clip(
            name=name,
            frames=read_video(folder / "frames.mp4").frames,
            object_mask=read_image(mask)[..., 0] > 127 if mask.exists() else None,
            **known,
        )
    except FileNotFoundError as error:
        raise DatasetError(f"{folder}: there is no such clip; have: {', '.join(clip_names(root)) or 'none'}") from error
    except (DocumentError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder / 'clip.json'}: cannot be used ({error!r})") from error
    if clip.fingerprint() != fingerprint:
        raise DatasetError(f"{folder}: frames.mp4 or the prompt is not what clip.json says; write the clip again")
    return clip


def read_clip_kind(root: Path, name: str) -> str:
    """Where a clip comes from, with the split of a rendered one: `rendered/easy`, `generated`, `folder`.

    Its frames are not looked at.

    Raises:
        DatasetError: the clip is missing, or its clip.json is damaged.
    """
    about = root / name / "clip.json"
    try:
        found = read_json(about)
        split = found["details"].get("render", {}).get("split")
        return f"{found['source']}/{split}" if split else str(found["source"])
    except FileNotFoundError as error:
        raise DatasetError(f"{about.parent}: there is no such clip") from error
    except (DocumentError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{about}: cannot be used ({error!r})") from error


def read_given_tracks(root: Path, name: str) -> Tracks | None:
    """The annotation that came with a clip; None where none did."""
    path = root / name / "given_tracks.npz"
    return _load_tracks(path) if path.exists() else None


def write_tracks(root: Path, name: str, tracks: Tracks) -> None:
    """Write `root`/<name>.npz; the same tracks give the same bytes. `root` is made if missing."""
    check_name(name)
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".{name}.part.npz"
    _save_tracks(part, tracks)
    part.rename(root / f"{name}.npz")


def read_tracks(root: Path, name: str) -> Tracks:
    """Read what `write_tracks` wrote.

    Raises:
        DatasetError: the file is missing, cut short, or does not hold tracks.
    """
    return _load_tracks(root / f"{name}.npz")


def _save_tracks(path: Path, tracks: Tracks) -> None:
    np.savez(
        path,
        points_xy_px=tracks.points_xy_px,
        visible=tracks.visible,
        query_points=tracks.query_points,
        size=np.asarray([tracks.height, tracks.width]),
        tracker=np.asarray(tracks.tracker),
    )


def _load_tracks(path: Path) -> Tracks:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            height, width = (int(value) for value in arrays["size"])
            return Tracks(
                points_xy_px=arrays["points_xy_px"],
                visible=arrays["visible"],
                query_points=arrays["query_points"],
                height=height,
                width=width,
                tracker=str(arrays["tracker"]),
            )
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: there are no such tracks; run the annotate stage") from error
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: holds no usable tracks ({error})") from error


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
