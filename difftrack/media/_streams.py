"""Read videos frame by frame, without keeping a frame after it has been yielded."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
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
"""FFmpeg demuxers whose files contain their frames; playlists, scripts, session descriptions and devices are
refused."""
_FEW_FRAMES = 5
"""Number of frames from which on FFmpeg compares streams by other properties."""
_FPS_OF_IMAGES = 24.0
"""Frame rate of a folder of images, which states none."""


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Decoded frames and their rate.

    Raises:
        MediaError: there is no frame, or `fps` is not a positive number.
    """

    frames: UInt8[np.ndarray, "frame row col rgb"]
    fps: float
    """Frames per second; the average for a variable rate."""
    notes: tuple[str, ...] = ()
    """One line for each conversion applied to the frames and each kind of file left out."""

    def __post_init__(self) -> None:
        if 0 in self.frames.shape:
            raise MediaError(f"a video of shape {self.frames.shape} contains no image")
        rate_of(self.fps)


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Selects `max_frames` frames of a video: `start`, `start + every`, ...

    Raises:
        MediaError: a number is out of range.
    """

    start: int = 0
    max_frames: int | None = None
    """Maximum number of frames to select; None selects all."""
    every: int = 1

    def __post_init__(self) -> None:
        if self.start < 0 or self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise MediaError(
                f"start={self.start}, max_frames={self.max_frames}, every={self.every}; these must be start >= 0, "
                "max_frames >= 1 and every >= 1"
            )

    @property
    def stop(self) -> int | None:
        """First frame of the video that is not read; None reads to the end."""
        return None if self.max_frames is None else self.start + (self.max_frames - 1) * self.every + 1

    def count(self, num_frames: int) -> int:
        """Number of frames selected from a video of `num_frames` frames."""
        stop = num_frames if self.stop is None else min(self.stop, num_frames)
        return len(range(self.start, stop, self.every))


@dataclass(frozen=True, slots=True, eq=False)
class FrameStream:
    """A video that is decoded anew during each iteration; no frame is stored."""

    path: Path
    range: FrameRange
    height: int
    """Height of the upright frames, in pixels."""
    width: int
    fps: float
    """Frames per second of the selected frames."""
    num_frames: int | None
    """Number of selected frames, from the header or, where it states none, counted by packets; None if unknown."""
    notes: tuple[str, ...]
    """One line for each conversion applied to the frames and each kind of file left out."""
    _frames: Callable[[], Iterator[UInt8[np.ndarray, "row col rgb"]]]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
        """Decode from the beginning; all frames have the same size.

        Raises:
            MediaError: a frame is damaged or differs in size, or there is no frame in the range.
        """
        index = None
        for index, frame in enumerate(self._frames()):
            if frame.shape[:2] != (self.height, self.width):
                raise MediaError(
                    f"{self.path}: frame {self.range.start + index * self.range.every} is {size_of(frame)}, but the "
                    f"first is {self.width}x{self.height}"
                )
            yield frame
        if index is None:
            raise _no_frames_error(self.path, self.range)


def open_video(path: Path, *, start: int = 0, max_frames: int | None = None, every: int = 1) -> FrameStream:
    """Open a video file, or a folder of images in natural order (`f2.png` before `f10.png`), and check one frame.

    Every stored frame is yielded once, rotated and mirrored as the file states. Of several video streams, the best is
    read as in FFmpeg (`_best`), but never a cover image. A variable frame rate is not resampled: every stored frame
    counts as one, and `fps` is the average. HDR is tone-mapped to 8 bits (`_hdr`). A folder of images has no frame
    rate, so 24 frames per second are assumed; `list_folder` decides which of its files are frames. Their sizes must
    agree, and all their headers are read at once.

    Args:
        path: A video file that contains its frames, or a folder of images of one size.
        start: Number of frames to skip at the beginning.
        max_frames: Maximum number of frames; None reads all.
        every: Read only every `every`-th frame; `fps` decreases accordingly.

    Raises:
        MediaError: the file is missing, unreadable, truncated, in an unsupported format, has no frames in the selected
            range, or its frames have more than `MAX_PIXELS`.
    """
    try:
        selected = FrameRange(start, max_frames, every)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from error
    if path.is_dir():
        return _open_folder(path, selected)
    with _opened(path) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > _limits.MAX_PIXELS:
            raise MediaError(f"{path}: {too_large(width, height)}")
        first = next(_upright(path, container, stream, FrameRange(max_frames=1)), None)
        if first is None:
            raise MediaError(f"{path}: contains no frames; is the file empty?")
        picture, notes = first
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise MediaError(f"{path}: states no frame rate; is the file truncated?")
        stored = stream.frames
    if not stored:
        stored, rate = _counted(path, rate)
    return FrameStream(
        path,
        selected,
        *picture.shape[:2],
        fps=float(rate) / every,
        num_frames=selected.count(stored) if stored else max_frames,
        notes=notes,
        _frames=lambda: _decoded(path, selected),
    )


def read_video(path: Path, *, start: int = 0, max_frames: int | None = None, every: int = 1) -> Video:
    """Read a whole video into memory; arguments and errors are those of `open_video`.

    Raises:
        MediaError: also if the frames fill more than half of this machine's memory.
    """
    stream = open_video(path, start=start, max_frames=max_frames, every=every)
    expected = stream.num_frames or 0
    if expected * stream.height * stream.width * 3 > _limits.most_bytes():
        raise MediaError(f"{path}: {expected} frames of {stream.width}x{stream.height} {TOO_MUCH}")
    return Video(gathered(stream, str(path), expected=expected, first=start), stream.fps, stream.notes)


def content_digest(path: Path) -> str:
    """Compute the SHA-256 of a video file, or of the names and contents of a folder's images.

    Raises:
        MediaError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in list_folder(path).pictures if path.is_dir() else (path,):
            with file.open("rb") as content:
                file_digest = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.name if path.is_dir() else ''} {file_digest}\n".encode())
    except OSError as error:
        raise MediaError(f"{path}: {cause_of(error)}") from error
    return digest.hexdigest()


def is_lossless(path: Path) -> bool:
    """Whether a file is a lossless video from `write_video`: H.264 in RGB, which cameras do not produce."""
    import av

    try:
        with av.open(f"file:{path}", options=_open_options()) as container:
            context = container.streams.video[0].codec_context
            return bool(context.name == "h264" and context.pix_fmt == "gbrp")
    except (av.FFmpegError, OSError, IndexError):
        return False


def _open_folder(path: Path, selected: FrameRange) -> FrameStream:
    listing = list_folder(path)
    if listing.videos:
        raise MediaError(
            f"{path}: contains {len(listing.videos)} video(s), such as {listing.videos[0].name}; only a folder of "
            "images is read as one video, so give the path of a video file"
        )
    files = listing.pictures[selected.start : selected.stop : selected.every]
    if not files:
        raise _no_frames_error(path, selected)
    height, width = read_image(files[0]).shape[:2]
    for file in files[1:]:
        if (size := image_size(file)) != (height, width):
            raise MediaError(f"{path}: {file.name} is {size[1]}x{size[0]}, but the first image is {width}x{height}")
    return FrameStream(
        path,
        selected,
        height,
        width,
        fps=_FPS_OF_IMAGES / selected.every,
        num_frames=len(files),
        notes=listing.left_out,
        _frames=lambda: map(read_image, files),
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a container and its best video stream; FFmpeg's errors become one-line messages."""
    import av

    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    try:
        with av.open(f"file:{path}", options=_open_options()) as container:  # the prefix prevents URLs
            stream = _best(path, container)
            if stream is None:
                raise MediaError(f"{path}: contains no video stream; is the file truncated?")
            stream.codec_context.options = {"max_pixels": str(_limits.MAX_PIXELS)}
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.InvalidDataError as error:
        raise MediaError(f"{path}: is not a readable video, or is truncated") from error
    except av.error.ArgumentError as error:  # FFmpeg's error for a format that is not on the list
        raise MediaError(
            f"{path}: is not a video file that contains its frames, such as mp4, mov, mkv, webm or avi; playlists, "
            "scripts and streams are not opened"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {cause_of(error)}") from error


def _open_options() -> dict[str, str]:
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(_VIDEO_FORMATS)}


def _best(path: Path, container: Any) -> Any:  # noqa: ANN401 - PyAV is imported only when a file is opened
    """Return the best video stream: FFmpeg's order, with the larger picture before the higher bit rate.

    A default stream comes first, then one with more frames, up to five, then the one with more pixels. A cover image is
    taken only if there is no other stream.
    """
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = list(container.streams.video)
    films = [stream for stream in streams if not stream.disposition & covers] or streams
    if len(films) < 2:
        return films[0] if films else None
    counts = _few_packets(path, [stream.index for stream in films])
    return max(
        films,
        key=lambda stream: (
            bool(stream.disposition & Disposition.default),
            counts[stream.index],
            stream.codec_context.width * stream.codec_context.height,
        ),
    )


def _few_packets(path: Path, streams: Sequence[int]) -> dict[int, int]:
    """Count the packets of streams up to `_FEW_FRAMES` each, which tells stills from films."""
    import av

    counts = dict.fromkeys(streams, 0)
    with av.open(f"file:{path}", options=_open_options()) as container:
        for packet in container.demux([container.streams[index] for index in streams]):
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) >= _FEW_FRAMES:
                break
    return {index: min(count, _FEW_FRAMES) for index, count in counts.items()}


def _counted(path: Path, stated: Fraction) -> tuple[int, Fraction]:
    """Count frames and their average rate over a whole file, by its packets and without decoding.

    Matroska, WebM and MPEG streams state neither: their rate is nominal, and a duration is no number of frames where
    the rate varies. The stated rate counts as long as the times agree with it but for their rounding.
    """
    times, starts, count, last = list[int](), list[int](), 0, 0
    with _opened(path) as (container, stream):
        tick = stream.time_base
        for packet in container.demux(stream):  # a packet holds compressed frames, so none is kept
            if not packet.size:
                continue
            count, last = count + 1, packet.duration or 0
            if packet.pts is not None:
                times.append(packet.pts)
                starts += [packet.pts] if packet.is_keyframe else []
    if len(times) < count or count < 2 or not tick or starts != sorted(starts):
        return count, stated
    span = (max(times) - min(times)) * tick
    if span <= 0 or abs(span - (count - 1) / stated) <= 2 * tick + span / 1000:
        return count, stated
    return count, count / (span + (last * tick or 1 / stated))


def _decoded(path: Path, selected: FrameRange) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
    with _opened(path) as (container, stream):
        for picture, _ in _upright(path, container, stream, selected):
            yield picture


def _upright(
    path: Path,
    container: Any,  # noqa: ANN401 - PyAV is imported only when a file is opened
    stream: Any,  # noqa: ANN401
    selected: FrameRange,
) -> Iterator[tuple[UInt8[np.ndarray, "row col rgb"], tuple[str, ...]]]:
    """Yield the selected frames upright, each with notes on the conversions applied."""
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise MediaError(f"{path}: is truncated: its index refers to byte {end}, but it has {container.size} bytes")
    for index, frame in enumerate(islice(container.decode(stream), selected.stop)):
        if frame.is_corrupt:
            raise MediaError(f"{path}: frame {index} is damaged")
        if index < selected.start or (index - selected.start) % selected.every:
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
            note = f"HDR ({hdr}) was tone-mapped to 8 bits"
            yield orientation.apply(tone_mapped(frame.to_ndarray(format="rgb48le"), hdr)), (note,)


def _no_frames_error(path: Path, selected: FrameRange) -> MediaError:
    return MediaError(f"{path}: contains no frames from frame {selected.start} on; is it empty or shorter than that?")
