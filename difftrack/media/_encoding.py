"""Write videos frame by frame, and write images."""

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from difftrack.media._errors import MediaError
from difftrack.media._limits import size_of

__all__ = ["rate_of", "write_frames", "write_image", "write_video"]


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "frame row col rgb"],
    fps: float,
    *,
    lossless: bool,
) -> None:
    """Write an mp4 from an array of frames; see `write_frames`."""
    write_frames(path, frames, fps, lossless=lossless)


def write_frames(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
    fps: float,
    *,
    lossless: bool,
) -> None:
    """Write an mp4 from an iterator, with one frame in memory. The file at `path` is either complete or absent.

    Args:
        path: The file; its folder must exist.
        frames: At least one frame; all must have the same size.
        fps: Frames per second, stored to within 1e-4 of a frame.
        lossless: True for RGB that decodes bit-exactly; False for H.264 yuv420p at crf 18, which browsers play. The
            latter needs even sizes, so the last row or column is repeated where a size is odd.

    Raises:
        MediaError: there is no frame, frames differ in size, the rate is not positive, or the file cannot be written.
    """
    import av

    rate = rate_of(fps)
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None or 0 in first.shape:
        raise MediaError(f"{path}: there is no frame to write, or the first frame is empty")
    codec, pixels = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    # x264's macroblock tree is not deterministic, especially while other threads encode.
    options = {"preset": "veryfast", **({"crf": "0"} if lossless else {"crf": "18", "x264-params": "mbtree=0"})}
    part = path.with_name(f".{path.name}.part")
    try:
        muxing = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(part, "w", format="mp4", options=muxing) as container:
            stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=options))
            stream.height, stream.width = (size + (0 if lossless else size % 2) for size in first.shape[:2])
            stream.pix_fmt = pixels
            stream.codec_context.thread_count = 1
            for frame in chain([first], remaining):
                if frame.shape != first.shape:
                    raise MediaError(f"{path}: a frame is {size_of(frame)}, but the first is {size_of(first)}")
                if not lossless:
                    frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        part.replace(path)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: cannot write the file ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def write_image(path: Path, image: UInt8[np.ndarray, "row col rgb"] | UInt8[np.ndarray, "row col"]) -> None:
    """Write an RGB or grey image; the suffix of `path` selects the format (.png is lossless)."""
    try:
        Image.fromarray(image).save(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot write the file ({error})") from error


def rate_of(fps: float) -> Fraction:
    """Convert frames per second to a fraction.

    Raises:
        MediaError: `fps` is not a positive number.
    """
    if not math.isfinite(fps) or fps <= 0:
        raise MediaError(f"fps is {fps}; it must be a positive number")
    return Fraction(fps).limit_denominator(10_000)
