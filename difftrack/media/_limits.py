"""Limits on the size of decoded images and videos."""

import os
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from difftrack.media._errors import MediaError

__all__ = ["MAX_PIXELS", "TOO_MUCH", "gathered", "most_bytes", "size_of", "too_large"]

MAX_PIXELS = 2**26
"""Most pixels in one image or frame, twice those of an 8K frame; a file that declares more is not decoded."""
TOO_MUCH = "need more than half of this machine's memory; cut the video, or take fewer frames (max_frames, every)"
_FEW = 64
"""Initial capacity, in frames, when the number of frames is unknown."""


def gathered(
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]], name: str, *, expected: int = 0, first: int = 0
) -> UInt8[np.ndarray, "frame row col rgb"]:
    """Collect frames in one array, which may fill at most half of this machine's memory.

    Args:
        frames: An iterator of frames.
        name: Name of the video, for messages.
        expected: Expected number of frames, 0 if unknown; the array grows if there are more.
        first: Number of the first frame in the video, for messages.

    Returns:
        All frames; an empty array if there is none.

    Raises:
        MediaError: the frames need more memory, or differ in size.
    """
    held, count, limit = np.empty((0, 0, 0, 3), dtype=np.uint8), 0, most_bytes()
    for frame in frames:
        if not count:
            room = max(1, min(expected or _FEW, limit // max(frame.nbytes, 1)))
            held = np.empty((room, *frame.shape), dtype=np.uint8)
        if frame.shape != held.shape[1:]:
            raise MediaError(
                f"{name}: frame {first + count} is {size_of(frame)}, but the first is {held.shape[2]}x{held.shape[1]}"
            )
        if (count + 1) * frame.nbytes > limit:
            raise MediaError(f"{name}: {count + 1} frames of {size_of(frame)} {TOO_MUCH}")
        if count == len(held):
            held.resize((min(2 * count, limit // frame.nbytes), *frame.shape), refcheck=False)
        held[count] = frame
        count += 1
    held.resize((count, *held.shape[1:]), refcheck=False)
    return held


def most_bytes() -> int:
    """Return the memory that one decoded video may fill: half of the machine's, or 8 GiB where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**33


def too_large(width: int, height: int) -> str:
    """Return the message for an image that is too large."""
    return f"declares {width}x{height} pixels; at most {MAX_PIXELS} are decoded, so make it smaller first"


def size_of(frame: UInt8[np.ndarray, "row col rgb"]) -> str:
    """Format a frame's size as WIDTHxHEIGHT."""
    return f"{frame.shape[1]}x{frame.shape[0]}"
