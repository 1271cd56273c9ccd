"""Reads and writes video and image files; nothing else touches PyAV or Pillow.

PyAV is imported where a video file is opened: what only resizes pictures, as the backbones do, needs no video library.

Files may be a stranger's. Every decoder is told the formats that it takes, so that no file reaches a program outside
this process (Pillow hands PostScript to Ghostscript) or opens another file or address (playlists and scripts of
FFmpeg). Sizes are bounded before anything is decoded: `MAX_PIXELS` for one picture, half of the machine's memory for a
video.

Pictures are uint8 RGB with axes (frame, row, col, rgb). Files on the way between stages are lossless (`libx264rgb`,
crf 0, one thread: the same frames give the same bytes and come back bit-exact); lossy files are for looking at only.
"""

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
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
    "MAX_PIXELS",
    "VIDEO_SUFFIXES",
    "MediaError",
    "Video",
    "bounded",
    "is_image_folder",
    "is_lossless",
    "jpeg_decode",
    "mask_palette",
    "most_bytes",
    "natural_order",
    "read_image",
    "read_mask",
    "read_video",
    "resize_frames",
    "write_image",
    "write_mask",
    "write_video",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case endings that a folder of images is searched for."""
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Lower-case endings that a folder of videos is searched for."""

MAX_PIXELS = 2**26
"""Most pixels of one picture or frame, those of two frames of 8K video; a file that claims more is not decoded."""

_IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's decoders for files: those of `IMAGE_SUFFIXES`. Any other is never tried, least of all EPS and PDF."""
_PACKED_FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow's decoders for pictures inside data sets."""
_VIDEO_FORMATS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "nut", "mxf", "ivf", "gif"),
    *("h264", "hevc", "av1", "obu", "m4v", "mjpeg", "yuv4mpegpipe"),
)
"""FFmpeg's demuxers that hold their frames themselves: no playlists, scripts, session descriptions or devices."""
_FPS_OF_IMAGES = 24.0
"""Frames per second of a folder of images, which carries none."""
_TOO_MUCH = "are more than half of this machine's memory; cut the video or give max_frames"
_MOST_OBJECTS = 64
"""Objects that a mask may show."""
_PLAIN_MASK = "save it as PNG, one colour for each object, without smoothed edges"
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
        path: A video file that holds its own frames, or a folder with images of one size.
        start: Frames to leave out at the beginning.
        max_frames: Most frames to return; None for all.

    Raises:
        MediaError: the file is missing, unreadable, cut short, without frames in the wanted range, of a format that is
            not taken, or larger than this machine can hold.
    """
    if start < 0 or (max_frames is not None and max_frames < 1):
        raise MediaError(f"{path}: start={start}, max_frames={max_frames}; wanted: start >= 0 and max_frames >= 1")
    stop = None if max_frames is None else start + max_frames
    if path.is_dir():
        files = natural_order(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        frames, fps = bounded(map(read_image, files[start:stop]), str(path)), _FPS_OF_IMAGES
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
    """Read one picture (BMP, JPEG, PNG, TIFF or WebP) as RGB, upright (EXIF orientation honoured), without alpha.

    Raises:
        MediaError: the file is missing, no regular file, unreadable, cut short, of another format, larger than
            `MAX_PIXELS` or deeper than 8 bits per channel.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    return _decode_image(path, _IMAGE_FORMATS, str(path), _rgb)


def read_mask(path: Path) -> UInt8[np.ndarray, "row col"]:
    """Read one picture as the number of the object in each pixel; 0 is the background.

    A picture with a palette (the masks of DAVIS 2017) holds these numbers. So does a grey one, but for one of black and
    white alone (DAVIS 2016), whose white is object 1. Colours become numbers in rising order of red, green and blue;
    black is the background.

    Raises:
        MediaError: as in `read_image`, or the picture has more than 65 colours or greys, so that it is no mask.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    return _decode_image(path, _IMAGE_FORMATS, str(path), _object_numbers)


def jpeg_decode(data: bytes) -> UInt8[np.ndarray, "row col rgb"]:
    """Decode the bytes of one JPEG, PNG or WebP as RGB.

    Raises:
        MediaError: the bytes are no such picture, are cut short, or claim more than `MAX_PIXELS`.
    """
    return _decode_image(io.BytesIO(data), _PACKED_FORMATS, f"a picture of {len(data)} bytes", _rgb)


def bounded(frames: Iterable[UInt8[np.ndarray, "row col rgb"]], name: str) -> list[UInt8[np.ndarray, "row col rgb"]]:
    """Collect frames while this machine can hold them; their array is a second copy, so half of the memory is the end.

    Raises:
        MediaError: the frames need more; the message bears `name`.
    """
    kept: list[UInt8[np.ndarray, "row col rgb"]] = []
    left = most_bytes()
    for frame in frames:
        left -= frame.nbytes
        if left < 0:
            raise MediaError(f"{name}: {len(kept) + 1} frames of {_size(frame)} {_TOO_MUCH}")
        kept.append(frame)
    return kept


def most_bytes() -> int:
    """Half of the machine's memory, which one video, decoded, may fill; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # no such call on Windows
        return 2**33


def write_image(path: Path, image: UInt8[np.ndarray, "row col rgb"] | UInt8[np.ndarray, "row col"]) -> None:
    """Write RGB or grey; the ending of `path` chooses the format (.png is lossless)."""
    try:
        Image.fromarray(image).save(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def write_mask(path: Path, mask: UInt8[np.ndarray, "row col"]) -> None:
    """Write the numbers of objects as a PNG with a palette, as DAVIS 2017 does; `read_mask` reads them back."""
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(mask_palette().tobytes())  # turns grey levels into places in the palette
    try:
        image.save(path, format="PNG")
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def mask_palette() -> UInt8[np.ndarray, "number rgb"]:
    """Give the colour of each number of a mask, that of PASCAL VOC and DAVIS: bits 0, 3, 6 of the number go to red.

    Bits 1, 4, 7 go to green and bits 2, 5 to blue, the lowest to the most significant place; 0 is black.
    """
    numbers = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colors[:, bit % 3] |= ((numbers >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors


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


def is_lossless(path: Path) -> bool:
    """Whether a file is a video as `write_video` writes it without loss: H.264 in RGB, which cameras never write."""
    import av

    try:
        with av.open(f"file:{path}", options=_only()) as container:
            context = container.streams.video[0].codec_context
            return bool(context.name == "h264" and context.pix_fmt == "gbrp")
    except (av.FFmpegError, OSError, IndexError):
        return False


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort by name with digits compared as numbers; equal ones by the name itself."""
    return sorted(paths, key=lambda path: ([_number(part) for part in re.split(r"(\d+)", path.name)], path.name))


def is_image_folder(path: Path) -> bool:
    """Whether `path` is a folder that holds at least one picture."""
    return path.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())


def _decode(path: Path, start: int, stop: int | None) -> tuple[list[UInt8[np.ndarray, "row col rgb"]], float]:
    import av

    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    try:
        with av.open(f"file:{path}", options=_only()) as container:  # the prefix: a name is never an address
            if not container.streams.video:
                raise MediaError(f"{path}: holds no video stream; is it cut short?")
            stream = container.streams.video[0]
            _check_claims(path, stream, stop)
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.thread_type = "AUTO"
            frames = bounded(islice(_upright(path, container, stream), start, stop), str(path))
            rate = stream.average_rate or stream.guessed_rate
    except av.error.InvalidDataError as error:
        raise MediaError(f"{path}: is no video that can be read, or is cut short") from error
    except av.error.ArgumentError as error:  # how FFmpeg says that a format is not on the list
        raise MediaError(
            f"{path}: is no video that holds its own frames, as mp4, mov, mkv, webm and avi do; playlists, scripts and "
            "streams are not opened"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {_cause(error)}") from error
    if not rate:
        raise MediaError(f"{path}: states no frame rate; is it cut short?")
    return frames, float(rate)


def _only() -> dict[str, str]:
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(_VIDEO_FORMATS)}


def _check_claims(path: Path, stream: Any, stop: int | None) -> None:  # noqa: ANN401 - as below
    """Refuse a video by what its header claims, before the first frame is decoded."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path}: {_too_large(width, height)}")
    num_frames = stream.frames if stop is None else min(stream.frames, stop)
    if num_frames * width * height * 3 > most_bytes():
        raise MediaError(f"{path}: {num_frames} frames of {width}x{height} {_TOO_MUCH}")


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
        if frame.width * frame.height > MAX_PIXELS:
            raise MediaError(f"{path}: frame {index}: {_too_large(frame.width, frame.height)}")
        yield np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90)


def _decode_image(
    source: Path | io.BytesIO, formats: tuple[str, ...], name: str, read: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Decode one picture by one of `formats`; turn every exception of a decoder, of any kind, into a MediaError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower and no warning
            image = Image.open(source, formats=formats)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(_too_large(image.width, image.height))
            if image.mode not in _RGB_MODES:
                raise MediaError(f"pixels of mode {image.mode} are deeper than 8 bits; convert it to 8 bits first")
            return read(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: is no picture that can be read; formats: {', '.join(formats)}") from error
    except Exception as error:
        raise MediaError(f"{name}: {_cause(error)}") from error


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "row col rgb"]:
    return np.asarray(image.convert("RGB"))


def _object_numbers(image: Image.Image) -> UInt8[np.ndarray, "row col"]:
    numbers: np.ndarray
    if image.mode == "P":
        numbers = np.asarray(image)
    elif image.mode in ("1", "L", "LA"):
        numbers = np.asarray(image.convert("L"))
        numbers = np.asarray(numbers > 0, dtype=np.uint8) if set(np.unique(numbers)) <= {0, 255} else numbers
    else:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        colors = (red << 16) + (green << 8) + blue
        known = np.unique(np.append(colors, 0))
        if len(known) > _MOST_OBJECTS + 1:
            raise MediaError(f"has {len(known)} colours, so that it is no mask; {_PLAIN_MASK}")
        numbers = np.searchsorted(known, colors).astype(np.uint8)
    if (count := len(np.unique(numbers))) > _MOST_OBJECTS + 1:
        raise MediaError(f"has {count} greys, so that it is no mask; {_PLAIN_MASK}")
    return numbers


def _rate(fps: float) -> Fraction:
    if not math.isfinite(fps) or fps <= 0:
        raise MediaError(f"fps is {fps}; it must be a positive number")
    return Fraction(fps).limit_denominator(10_000)


def _cause(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) or type(error).__name__


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part.lower())


def _too_large(width: int, height: int) -> str:
    return f"claims {width}x{height} pixels; at most {MAX_PIXELS} are decoded, make it smaller first"


def _size(frame: UInt8[np.ndarray, "row col rgb"]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
