"""Reads a clip from any source of video."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import UInt8

from difftrack.datasets import Clip, DatasetError, plain_name, read_tapvid_entry
from difftrack.media import read_video
from difftrack.store import Store

__all__ = ["known_clip", "read_clip", "remember_clip"]

_CLIPS: WeakKeyDictionary[Store, dict[str, Clip]] = WeakKeyDictionary()
"""Clips of this process's stores: a store holds descriptors but no frames."""

_FPS = 24.0
"""Frames per second of sources without a rate."""


def read_clip(
    source: str | Path | UInt8[np.ndarray, "frame row col rgb"] | Sequence[Any] | Mapping[str, Any],
    *,
    name: str | None = None,
    prompt: str = "",
    fps: float | None = None,
    start: int = 0,
    max_frames: int | None = None,
) -> Clip:
    """Read a video.

    Args:
        source: A video file, a folder of images, a URL that fsspec understands (`https://...`, `s3://...`), an array
            uint8 [frame, row, col, rgb], a list of images (arrays uint8 [row, col, rgb] or PIL images), or an entry of
            a TAP-Vid file (a mapping with `video`).
        name: The clip's name; the file's or `clip` by default.
        prompt: Description of the video, for views that read the clip's prompt.
        fps: Frames per second; by default the source's rate, or 24 if it has none.
        start: Number of frames to skip at the beginning.
        max_frames: Maximum number of frames; None takes all.

    Raises:
        MediaError: the file is missing, damaged or not a video.
        DatasetError: the array or the list holds no video.

    Example:
        >>> clip = read_clip(np.zeros((3, 16, 24, 3), dtype=np.uint8), name="black")
        >>> clip.num_frames, clip.height, clip.width
        (3, 16, 24)
    """
    if isinstance(source, Mapping):
        frames, rate, found = read_tapvid_entry(name or "clip", source).clip.frames, _FPS, "clip"
    elif isinstance(source, str | Path):
        return _from_file(str(source), name=name, prompt=prompt, fps=fps, start=start, max_frames=max_frames)
    else:
        frames, rate, found = _stacked(source), _FPS, "clip"
    stop = None if max_frames is None else start + max_frames
    return Clip(name or found, frames[start:stop], fps or rate, prompt, "folder")


def _from_file(
    source: str, *, name: str | None, prompt: str, fps: float | None, start: int, max_frames: int | None
) -> Clip:
    if re.match(r"[a-z0-9+]+://", source):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / source.rstrip("/").rpartition("/")[2]
            _fetch(source, copy)
            video = read_video(copy, start=start, max_frames=max_frames)
        stem = copy.stem
    else:
        path = Path(source)
        video, stem = read_video(path, start=start, max_frames=max_frames), path.stem or path.name
    return Clip(name or plain_name(stem), video.frames, fps or video.fps, prompt, "folder")


def _fetch(url: str, path: Path) -> None:
    import fsspec

    try:
        with fsspec.open(url, "rb") as remote, path.open("wb") as local:
            while block := remote.read(1 << 20):
                local.write(block)
    except Exception as error:
        raise DatasetError(f"{url} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _stacked(images: Any) -> UInt8[np.ndarray, "frame row col rgb"]:  # noqa: ANN401
    """Stack images of one size, or take an array as it is."""
    if isinstance(images, np.ndarray):
        return images
    frames = [np.asarray(image.convert("RGB") if hasattr(image, "convert") else image) for image in images]
    if not frames or any(frame.shape != frames[0].shape for frame in frames):
        sizes = ", ".join(dict.fromkeys(str(frame.shape) for frame in frames)) or "none"
        raise DatasetError(
            f"a list of images of shapes {sizes}; expected at least one, all of one shape [row, col, rgb]"
        )
    return np.stack(frames)


def remember_clip(store: Store, clip: Clip) -> None:
    """Keep a clip as long as the store object lives."""
    _CLIPS.setdefault(store, {})[clip.name] = clip


def known_clip(store: Store, name: str) -> Clip | None:
    """Return the clip of this name, or None if this session did not read it."""
    return _CLIPS.get(store, {}).get(name)
