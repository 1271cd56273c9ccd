"""Videos frame by frame: what is read is held by nobody but the caller."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from difftrack.media import _limits
from difftrack.media._encoding import rate_of
from difftrack.media._errors import MediaError, cause_of
from difftrack.media._hdr import hdr_name, tone_mapped
from difftrack.media._images import image_size, read_image
from difftrack.media._limits import TOO_MUCH, gathered, size_of, too_large
from difftrack.media._listing import list_folder
from difftrack.media._orientation import orientation_of

__all__ = ["FrameRange", "FrameStream", "Video", "content_digest", "is_lossless", "open_video", "read_video"]

_VIDEO_FORMATS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "nut", "mxf", "ivf", "gif"),
    *("h264", "hevc", "av1", "obu", "m4v", "mjpeg", "yuv4mpegpipe"),
)
"""FFmpeg's demuxers that hold their frames themselves: no playlists, scripts, session descriptions or devices."""
_FPS_OF_IMAGES = 24.0
"""Frames per second of a folder of images, which carries none."""


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Decoded frames and their rate.

    Raises:
        MediaError: there is no frame, or `fps` is not a positive number.
    """

    frames: UInt8[np.ndarray, "frame row col rgb"]
    fps: float
    """Frames per second; for a variable rate, the average."""
    notes: tuple[str, ...] = ()
    """What was done to them or left out, a line each."""

    def __post_init__(self) -> None:
        if 0 in self.frames.shape:
            raise MediaError(f"a video of shape {self.frames.shape} holds no picture")
        rate_of(self.fps)


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Which of a video's frames are taken: `start`, `start + every`, ..., `max_frames` of them.

    Raises:
        MediaError: a number is out of range.
    """

    start: int = 0
    max_frames: int | None = None
    """Frames that are taken; None takes all."""
    every: int = 1

    def __post_init__(self) -> None:
        if self.start < 0 or self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise MediaError(
                f"start={self.start}, max_frames={self.max_frames}, every={self.every}; wanted: start >= 0, "
                "max_frames >= 1 and every >= 1"
            )

    @property
    def stop(self) -> int | None:
        """First frame of the video that is not looked at."""
        return None if self.max_frames is None else self.start + (self.max_frames - 1) * self.every + 1

    def count(self, num_frames: int) -> int:
        """How many frames of a video of that many are taken."""
        stop = num_frames if self.stop is None else min(self.stop, num_frames)
        return len(range(self.start, stop, self.every))


@dataclass(frozen=True, slots=True, eq=False)
class FrameStream:
    """A video that is decoded while it is looked at, as often as it is looked at; holds no frame."""

    path: Path
    range: FrameRange
    height: int
    """Of the upright frames, in pixels."""
    width: int
    fps: float
    """Frames per second of the frames that are taken."""
    num_frames: int | None
    """How many will come, as the header says; None where it does not say."""
    notes: tuple[str, ...]
    """What is done to frames or left out, a line each."""
    _frames: Callable[[], Iterator[UInt8[np.ndarray, "row col rgb"]]]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
        """Decode from the beginning; frames are all of one size.

        Raises:
            MediaError: a frame is damaged or of another size, or there is none in the range.
        """
        index = None
        for index, frame in enumerate(self._frames()):
            if frame.shape[:2] != (self.height, self.width):
                raise MediaError(
                    f"{self.path}: frame {self.range.start + index * self.range.every} is {size_of(frame)}, the first "
                    f"one {self.width}x{self.height}"
                )
            yield frame
        if index is None:
            raise _none(self.path, self.range)


def open_video(path: Path, *, start: int = 0, max_frames: int | None = None, every: int = 1) -> FrameStream:
    """Look at a video file, or a folder of images in natural order (`f2.png` before `f10.png`), and decode one frame.

    Frames are taken as they are stored, each once, turned and mirrored as the file says. Of several video streams the
    one that FFmpeg calls the best is taken, never a cover picture. A variable frame rate is not resampled: every stored
    frame counts as one, and `fps` is the file's average. HDR is brought to 8 bits (`_hdr`). A folder of images has no
    rate and is given 24 frames per second; which of its files are frames, `list_folder` says.

    Args:
        path: A video file that holds its own frames, or a folder with images of one size.
        start: Frames to leave out at the beginning.
        max_frames: Most frames to take; None for all.
        every: Take every so many frames only; the rate falls likewise.

    Raises:
        MediaError: the file is missing, unreadable, cut short, without frames in the wanted range, of a format that is
            not taken, or larger than this machine can hold.
    """
    try:
        wanted = FrameRange(start, max_frames, every)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from error
    if path.is_dir():
        return _open_folder(path, wanted)
    with _opened(path) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > _limits.MAX_PIXELS:
            raise MediaError(f"{path}: {too_large(width, height)}")
        first = next(_upright(path, container, stream, FrameRange(max_frames=1)), None)
        if first is None:
            raise MediaError(f"{path}: no frames from frame 0 on; is it empty?")
        picture, notes = first
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise MediaError(f"{path}: states no frame rate; is it cut short?")
        stored = stream.frames or _by_duration(container, stream, float(rate))
    return FrameStream(
        path,
        wanted,
        *picture.shape[:2],
        fps=float(rate) / every,
        num_frames=wanted.count(stored) if stored else max_frames,
        notes=notes,
        _frames=lambda: _decoded(path, wanted),
    )


def read_video(path: Path, *, start: int = 0, max_frames: int | None = None, every: int = 1) -> Video:
    """Read a video whole; arguments and errors are those of `open_video`.

    Raises:
        MediaError: also where the frames fill more than half of this machine's memory.
    """
    stream = open_video(path, start=start, max_frames=max_frames, every=every)
    expected = stream.num_frames or 0
    if expected * stream.height * stream.width * 3 > _limits.most_bytes():
        raise MediaError(f"{path}: {expected} frames of {stream.width}x{stream.height} {TOO_MUCH}")
    return Video(gathered(stream, str(path), expected=expected, first=start), stream.fps, stream.notes)


def content_digest(path: Path) -> str:
    """SHA-256 of a video file, or of the names and contents of a folder's pictures: the same for the same video.

    Raises:
        MediaError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in list_folder(path).pictures if path.is_dir() else (path,):
            with file.open("rb") as content:
                of_file = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.name if path.is_dir() else ''} {of_file}\n".encode())
    except OSError as error:
        raise MediaError(f"{path}: {cause_of(error)}") from error
    return digest.hexdigest()


def is_lossless(path: Path) -> bool:
    """Whether a file is a video as `write_video` writes it without loss: H.264 in RGB, which cameras never write."""
    import av

    try:
        with av.open(f"file:{path}", options=_only()) as container:
            context = container.streams.video[0].codec_context
            return bool(context.name == "h264" and context.pix_fmt == "gbrp")
    except (av.FFmpegError, OSError, IndexError):
        return False


def _open_folder(path: Path, wanted: FrameRange) -> FrameStream:
    listing = list_folder(path)
    if listing.videos:
        raise MediaError(
            f"{path}: holds {len(listing.videos)} video(s), such as {listing.videos[0].name}, and a folder is read as "
            "one video where it holds pictures alone; name the video"
        )
    files = listing.pictures[wanted.start : wanted.stop : wanted.every]
    if not files:
        raise _none(path, wanted)
    return FrameStream(
        path,
        wanted,
        *image_size(files[0]),
        fps=_FPS_OF_IMAGES / wanted.every,
        num_frames=len(files),
        notes=listing.left_out,
        _frames=lambda: map(read_image, files),
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its best stream; what FFmpeg says of the file becomes one line."""
    import av

    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    try:
        with av.open(f"file:{path}", options=_only()) as container:  # the prefix: a name is never an address
            stream = _best(container)
            if stream is None:
                raise MediaError(f"{path}: holds no video stream; is it cut short?")
            stream.codec_context.options = {"max_pixels": str(_limits.MAX_PIXELS)}
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.InvalidDataError as error:
        raise MediaError(f"{path}: is no video that can be read, or is cut short") from error
    except av.error.ArgumentError as error:  # how FFmpeg says that a format is not on the list
        raise MediaError(
            f"{path}: is no video that holds its own frames, as mp4, mov, mkv, webm and avi do; playlists, scripts and "
            "streams are not opened"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {cause_of(error)}") from error


def _only() -> dict[str, str]:
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(_VIDEO_FORMATS)}


def _best(container: Any) -> Any:  # noqa: ANN401 - as below
    """The stream that FFmpeg calls the best, or, where that is a cover picture, the best of the others."""
    from av.stream import Disposition

    films = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]
    best = container.streams.best("video")
    if best in films or not films:
        return best
    return max(films, key=lambda stream: (stream.frames, stream.codec_context.width * stream.codec_context.height))


def _by_duration(container: Any, stream: Any, rate: float) -> int:  # noqa: ANN401
    """How many frames a file without a count has, about; 0 where it does not say how long it is."""
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base) * rate)
    return round(container.duration / 1_000_000 * rate) if container.duration else 0


def _decoded(path: Path, wanted: FrameRange) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
    with _opened(path) as (container, stream):
        for picture, _ in _upright(path, container, stream, wanted):
            yield picture


def _upright(
    path: Path,
    container: Any,  # noqa: ANN401 - PyAV's types are not there before a file is opened
    stream: Any,  # noqa: ANN401
    wanted: FrameRange,
) -> Iterator[tuple[UInt8[np.ndarray, "row col rgb"], tuple[str, ...]]]:
    """The wanted frames as they are to be shown, and what was done to each."""
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise MediaError(f"{path}: its index reaches to byte {end} and it ends at {container.size}: it is cut short")
    for index, frame in enumerate(islice(container.decode(stream), wanted.stop)):
        if frame.is_corrupt:
            raise MediaError(f"{path}: frame {index} is damaged")
        if index < wanted.start or (index - wanted.start) % wanted.every:
            continue
        if frame.width * frame.height > _limits.MAX_PIXELS:
            raise MediaError(f"{path}: frame {index}: {too_large(frame.width, frame.height)}")
        try:
            orientation = orientation_of(frame)
        except ValueError as error:
            raise MediaError(f"{path}: {error}") from error
        hdr = hdr_name(frame)
        if hdr is None:
            yield orientation.apply(frame.to_ndarray(format="rgb24")), ()
        else:
            note = f"HDR ({hdr}) is tone-mapped to 8 bits"
            yield orientation.apply(tone_mapped(frame.to_ndarray(format="rgb48le"), hdr)), (note,)


def _none(path: Path, wanted: FrameRange) -> MediaError:
    return MediaError(f"{path}: no frames from frame {wanted.start} on; is it empty or shorter than that?")
