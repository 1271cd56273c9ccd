"""Resize frames."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = ["resize_frames"]


def resize_frames(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "frame new_row new_col rgb"]:
    """Resize frames in one step: bicubic with half-pixel centres, low-pass filtered when shrinking.

    Use `geometry.rescale_points` to scale the pixel coordinates of points.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, frames.shape[3]), dtype=np.uint8)
    for index, frame in enumerate(frames):
        resized[index] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    return resized
