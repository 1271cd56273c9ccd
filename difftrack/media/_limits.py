"""How much may be decoded."""

import os
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from difftrack.media._errors import MediaError

__all__ = ["MAX_PIXELS", "TOO_MUCH", "gathered", "most_bytes", "size_of", "too_large"]

MAX_PIXELS = 2**26
"""Most pixels of one picture or frame, those of two frames of 8K video; a file that claims more is not decoded."""
TOO_MUCH = "are more than half of this machine's memory; cut the video, or take fewer frames (max_frames, every)"
_FEW = 64
"""Frames for which there is room at first, where nothing says how many will come."""


def gathered(
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]], name: str, *, expected: int = 0, first: int = 0
) -> UInt8[np.ndarray, "frame row col rgb"]:
    """Hold frames in one array, each once, while this machine can: half of the memory is the end.

    Args:
        frames: One by one.
        name: For messages.
        expected: How many will come, as far as that is known; the array grows where there are more.
        first: Number of the first of them, for messages.

    Returns:
        All frames; an array without any where there is none.

    Raises:
        MediaError: they need more memory, or are not of one size.
    """
    held, count, limit = np.empty((0, 0, 0, 3), dtype=np.uint8), 0, most_bytes()
    for frame in frames:
        if not count:
            room = max(1, min(expected or _FEW, limit // max(frame.nbytes, 1)))
            held = np.empty((room, *frame.shape), dtype=np.uint8)
        if frame.shape != held.shape[1:]:
            raise MediaError(
                f"{name}: frame {first + count} is {size_of(frame)}, the first one {held.shape[2]}x{held.shape[1]}"
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
    """Half of the machine's memory, which one video, decoded, may fill; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # no such call on Windows
        return 2**33


def too_large(width: int, height: int) -> str:
    """Say that a picture is."""
    return f"claims {width}x{height} pixels; at most {MAX_PIXELS} are decoded, make it smaller first"


def size_of(frame: UInt8[np.ndarray, "row col rgb"]) -> str:
    """WIDTHxHEIGHT."""
    return f"{frame.shape[1]}x{frame.shape[0]}"
