"""Schedule the chunks of a clip: the frames that the backbone processes together.

A chunk is an anchor frame followed by other frames of the clip in ascending order. In the tracking view every frame is
encoded separately, so a chunk may contain any frames. Every chunk repeats its anchor, so a query point on the anchor is
matched directly with all frames, and errors do not accumulate along the clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from difftrack.wording import counted

__all__ = ["ChunkParams", "chunk_schedule"]


@dataclass(frozen=True, slots=True)
class ChunkParams:
    """How a clip is divided into chunks. This determines the model's input, so it belongs to the params of extraction.

    Raises:
        ValueError: a value is out of range.
    """

    chunk_len: int | None = None
    """Frames per chunk, including the anchor; null uses the backbone's native number of latent frames."""
    schedule: Literal["covering", "released"] = "covering"
    """`covering`: every frame in as few chunks as possible, for any length. `released`: the released sliding window."""
    interleaved: bool = True
    """True spreads a chunk's frames over the whole clip, False uses consecutive frames."""
    chunk_stride: int | None = None
    """New frames per chunk, at most `chunk_len - 1`, which is also the value of null. Smaller values make chunks
    overlap: with stride s, about `(chunk_len - 1) / s` chunks contain each frame, at as many times the cost. The
        released schedule
    ignores the stride if interleaved and advances by one frame; otherwise it accepts larger values for clips that fit
    into one chunk."""
    anchors: tuple[int, ...] = (0,)
    """Frames on which query points may start; negative values count from the end. Each anchor needs a full set of
    chunks. An anchor beyond a clip's end is left out for that clip."""
    video_max_len: int | None = None
    """Maximum number of frames used from each clip; null uses all."""

    def __post_init__(self) -> None:
        if self.chunk_len is not None and self.chunk_len < 2:
            raise ValueError(f"chunk_len is {self.chunk_len}; a chunk needs an anchor and at least one other frame")
        if self.chunk_stride is not None and self.chunk_stride < 1:
            raise ValueError(f"chunk_stride is {self.chunk_stride}; it must be at least 1")
        if self.schedule == "covering" and self.chunk_len is not None:
            _check_stride(self.chunk_stride, self.chunk_len)
        if not self.anchors:
            raise ValueError("anchors is empty; it needs at least one frame, such as 0")
        if self.schedule == "released" and self.anchors != (0,):
            raise ValueError(f"anchors is {list(self.anchors)}; the released schedule supports only frame 0")
        if self.video_max_len is not None and self.video_max_len < 2:
            raise ValueError(f"video_max_len is {self.video_max_len}; tracking needs at least 2 frames")


def chunk_schedule(num_frames: int, params: ChunkParams, *, native_len: int = 13) -> list[tuple[int, ...]]:
    """Divide a clip into chunks.

    With L = `chunk_len`, one anchor needs ceil((num_frames - 1) / (L - 1)) chunks, and A anchors need A times as many.
    All chunks of the covering schedule have the same length, min(L, num_frames), so the backbone always runs at its
    native length. If the frames do not divide evenly, some frames are in two chunks, and their match probabilities are
    averaged.

    Args:
        num_frames: Number of frames of the clip.
        params: How to divide the clip.
        native_len: Value of `chunk_len` if it is null; the default is CogVideoX's.

    Returns:
        Chunks of frame indices, each an anchor followed by other frames in ascending order; grouped by anchor.

    Raises:
        ValueError: the clip has fewer than two frames, no anchor lies inside it, or the released schedule does not
            support it.

    Source:
        Paper, section 4.1 and table A.2 (first frame in every chunk, interleaved frames). The released code uses up to
        four times as many chunks and fails for clips below `chunk_len` frames: decision 0005.
    """
    length = params.chunk_len or native_len
    params = replace(params, chunk_len=length)
    if num_frames < 2:
        raise ValueError(f"the clip has {num_frames} frame(s); tracking needs at least 2")
    if params.video_max_len is not None:
        num_frames = min(num_frames, params.video_max_len)
    if params.schedule == "released":
        return [(0, *chunk) for chunk in _released_windows(num_frames, params, length)]
    chunks: list[tuple[int, ...]] = []
    for anchor in _anchors_inside(num_frames, params.anchors):
        others = [frame for frame in range(num_frames) if frame != anchor]
        chunks += [(anchor, *window) for window in _covering_windows(others, params, length)]
    return chunks


def _check_stride(stride: int | None, chunk_len: int) -> None:
    """Check that a stride does not skip frames."""
    if stride is not None and stride > chunk_len - 1:
        raise ValueError(
            f"chunk_stride is {stride}; it must lie in 1 ... chunk_len - 1 = {chunk_len - 1}, or frames are skipped"
        )


def _anchors_inside(num_frames: int, anchors: Sequence[int]) -> list[int]:
    indices = {anchor + num_frames if anchor < 0 else anchor for anchor in anchors}
    inside = sorted(anchor for anchor in indices if 0 <= anchor < num_frames)
    if not inside:
        raise ValueError(f"anchors is {list(anchors)}; none lies inside a clip of {counted(num_frames, 'frame')}")
    return inside


def _covering_windows(frames: Sequence[int], params: ChunkParams, chunk_len: int) -> list[tuple[int, ...]]:
    """Cover `frames` with as few windows of equal length as possible that advance by at most the stride."""
    size = min(chunk_len - 1, len(frames))
    stride = min(params.chunk_stride or size, size)
    if not params.interleaved:
        starts = [min(start, len(frames) - size) for start in range(0, len(frames) - size + stride, stride)]
        return [tuple(frames[start : start + size]) for start in starts]
    count = -(-len(frames) // stride) if size < len(frames) else 1
    # Slot j of window k lies at position (j + k / count) / size of the clip. All slots together are evenly spaced, at
    # most one frame apart, so they reach every frame. Slots of one window are at least one frame apart, so they differ.
    return [
        tuple(frames[(slot * count + window) * len(frames) // (size * count)] for slot in range(size))
        for window in range(count)
    ]


def _released_windows(num_frames: int, params: ChunkParams, chunk_len: int) -> list[tuple[int, ...]]:
    """Slide the window of the released code until it has covered every frame (quirks, section D)."""
    size = chunk_len - 1
    if num_frames <= size:
        raise ValueError(
            f"the clip has {counted(num_frames, 'frame')}; the released schedule needs at least chunk_len = "
            f"{chunk_len}; use schedule: covering"
        )
    step = num_frames // size if params.interleaved else 1
    advance = 1 if params.interleaved else (params.chunk_stride or size)
    if num_frames - 1 > size:
        _check_stride(advance, chunk_len)
    windows: list[tuple[int, ...]] = []
    seen: set[int] = set()
    while len(seen) < num_frames - 1:
        first = 1 + advance * len(windows)
        windows.append(tuple(range(first, min(first + step * size, num_frames), step)))
        seen.update(windows[-1])
    return windows
