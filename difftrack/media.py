"""Reads and writes video and image files; nothing else touches PyAV or Pillow.

PyAV is imported where a video file is opened: what only resizes pictures, as the backbones do, needs no video library.

Pictures are uint8 RGB with axes (frame, row, col, rgb). Files on the way between stages are lossless (`libx264rgb`,
crf 0, one thread: the same frames give the same bytes and come back bit-exact); lossy files are for looking at only.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "MediaError",
    "Video",
    "is_image_folder",
    "jpeg_decode",
    "natural_order",
    "read_image",
    "read_video",
    "resize_frames",
    "write_image",
    "write_video",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case endings that a folder of images is searched for."""
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Lower-case endings that a folder of videos is searched for."""

_FPS_OF_IMAGES = 24.0
"""Frames per second of a folder of images, which carries none."""
_RGB_MODES = frozenset({"1", "CMYK", "L", "LA", "P", "RGB", "RGBA", "YCbCr"})
"""Pillow modes of 8 bits and less per channel; deeper ones would be clipped silently."""


class MediaError(ValueError):
    """A picture or video cannot be read or written; the message names the file and the cause."""


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Decoded frames and their rate.

    Raises:
        MediaError: there is no frame, or `fps` is not a positive number.
    """

    frames: UInt8[np.ndarray, "frame row col rgb"]
    fps: float
    """Frames per second; for a variable rate, the average."""

    def __post_init__(self) -> None:
        if 0 in self.frames.shape:
            raise MediaError(f"a video of shape {self.frames.shape} holds no picture")
        _rate(self.fps)


def read_video(path: Path, *, start: int = 0, max_frames: int | None = None) -> Video:
    """Read a video file, or a folder of images in natural order (`f2.png` before `f10.png`).

    Frames are taken as they are stored, each once, and turned upright where the file carries a rotation. A variable
    frame rate is not resampled: every stored frame counts as one, and `fps` is the file's average. A folder of images
    has no rate and is given 24 frames per second.

    Args:
        path: A file that FFmpeg can read, or a folder with images of one size.
        start: Frames to leave out at the beginning.
        max_frames: Most frames to return; None for all.

    Raises:
        MediaError: the file is missing, unreadable, cut short or without frames in the wanted range.
    """
    if start < 0 or (max_frames is not None and max_frames < 1):
        raise MediaError(f"{path}: start={start}, max_frames={max_frames}; wanted: start >= 0 and max_frames >= 1")
    stop = None if max_frames is None else start + max_frames
    if path.is_dir():
        files = natural_order(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        frames, fps = [read_image(file) for file in files[start:stop]], _FPS_OF_IMAGES
    else:
        frames, fps = _decode(path, start, stop)
    if not frames:
        raise MediaError(f"{path}: no frames from frame {start} on; is it empty or shorter than that?")
    for index, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise MediaError(f"{path}: frame {start + index} is {_size(frame)}, the first one {_size(frames[0])}")
    return Video(frames=np.stack(frames), fps=fps)


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "frame row col rgb"],
    fps: float,
    *,
    lossless: bool,
) -> None:
    """Write an mp4; under the final name it is either complete or absent.

    Args:
        path: The file; its folder must exist.
        frames: At least one frame.
        fps: Frames per second, kept to within 1e-4 of a frame.
        lossless: True for RGB that decodes bit-exact; False for H.264 yuv420p at crf 18, which browsers play. The
            latter needs even sizes: an odd last row or column is repeated once.

    Raises:
        MediaError: there is no frame, the rate is not positive, or the file cannot be written.
    """
    import av

    if 0 in frames.shape:
        raise MediaError(f"{path}: frames of shape {frames.shape} hold no picture")
    codec, pixels = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    # x264's macroblock tree comes out a little different now and then, above all while other threads encode.
    options = {"preset": "veryfast", **({"crf": "0"} if lossless else {"crf": "18", "x264-params": "mbtree=0"})}
    if not lossless:
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    part = path.with_name(f".{path.name}.part")
    try:
        muxing = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(part, "w", format="mp4", options=muxing) as container:
            stream = cast(av.VideoStream, container.add_stream(codec, rate=_rate(fps), options=options))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pixels
            stream.codec_context.thread_count = 1
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        part.replace(path)
    except (av.FFmpegError, OSError) as error:
        part.unlink(missing_ok=True)
        raise MediaError(f"{path}: cannot be written ({error})") from error


def read_image(path: Path) -> UInt8[np.ndarray, "row col rgb"]:
    """Read one picture as RGB, upright (EXIF orientation honoured), without its alpha channel.

    Raises:
        MediaError: the file is missing, unreadable, cut short or deeper than 8 bits per channel.
    """
    try:
        return _decode_image(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{path}: {_cause(error)}") from error


def jpeg_decode(data: bytes) -> UInt8[np.ndarray, "row col rgb"]:
    """Decode the bytes of one JPEG (or any other picture that Pillow knows) as RGB.

    Raises:
        MediaError: the bytes are no picture or are cut short.
    """
    try:
        return _decode_image(io.BytesIO(data))
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"a picture of {len(data)} bytes: {_cause(error)}") from error


def write_image(path: Path, image: UInt8[np.ndarray, "row col rgb"] | UInt8[np.ndarray, "row col"]) -> None:
    """Write RGB or grey; the ending of `path` chooses the format (.png is lossless)."""
    try:
        Image.fromarray(image).save(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def resize_frames(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "frame new_row new_col rgb"]:
    """Resize in one step, bicubic with half-pixel centres, low-pass filtered where it shrinks.

    Pixel coordinates of points scale by `geometry.rescale_points`.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, frames.shape[3]), dtype=np.uint8)
    for index, frame in enumerate(frames):
        resized[index] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    return resized


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort by name with digits compared as numbers; equal ones by the name itself."""
    return sorted(paths, key=lambda path: ([_number(part) for part in re.split(r"(\d+)", path.name)], path.name))


def is_image_folder(path: Path) -> bool:
    """Whether `path` is a folder that holds at least one picture."""
    return path.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())


def _decode(path: Path, start: int, stop: int | None) -> tuple[list[UInt8[np.ndarray, "row col rgb"]], float]:
    import av

    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: holds no video stream; is it cut short?")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = list(islice(_upright(path, container, stream), start, stop))
            rate = stream.average_rate or stream.guessed_rate
    except av.error.InvalidDataError as error:
        raise MediaError(f"{path}: is no video that can be read, or is cut short") from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {_cause(error)}") from error
    if not rate:
        raise MediaError(f"{path}: states no frame rate; is it cut short?")
    return frames, float(rate)


def _upright(
    path: Path,
    container: Any,  # noqa: ANN401 - PyAV's types are not there before a file is opened
    stream: Any,  # noqa: ANN401
) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
    wanted = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if wanted > container.size:
        raise MediaError(f"{path}: its index reaches to byte {wanted} and it ends at {container.size}: it is cut short")
    for index, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise MediaError(f"{path}: frame {index} is damaged")
        if frame.rotation % 90:
            raise MediaError(f"{path}: is turned by {frame.rotation} degrees; only quarter turns can be undone")
        yield np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90)


def _decode_image(source: Path | io.BytesIO) -> UInt8[np.ndarray, "row col rgb"]:
    with Image.open(source) as image:
        if image.mode not in _RGB_MODES:
            raise ValueError(f"pixels of mode {image.mode} are deeper than 8 bits; convert it to 8 bits first")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _rate(fps: float) -> Fraction:
    if not math.isfinite(fps) or fps <= 0:
        raise MediaError(f"fps is {fps}; it must be a positive number")
    return Fraction(fps).limit_denominator(10_000)


def _cause(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "is no picture that can be read"
    return str(error)


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part.lower())


def _size(frame: UInt8[np.ndarray, "row col rgb"]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
