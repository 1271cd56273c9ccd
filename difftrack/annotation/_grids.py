"""Grids of query points in frame 0, and object masks that restrict them."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.annotation._errors import AnnotationError
from difftrack.media import read_image

__all__ = ["grabcut_mask", "mask_from_file", "query_grid"]

_MARGIN = 64
"""The outermost points lie width / 64 inside the frame on all four sides."""
_BORDER = 8
"""GrabCut starts with a rectangle that leaves out 1/8 of the frame on every side."""
_ITERATIONS = 5
_LEAST_CHROMA = 31
"""Difference of the channels of a colour, above what compression makes of grey."""
_MOST_OBJECTS = 64
"""Largest number of an object in a mask that holds numbers."""
_SMALLEST_SHARE, _LARGEST_SHARE = 0.01, 0.9
"""Smallest and largest share of the frame that a segmented object may cover."""


def query_grid(
    height: int,
    width: int,
    num: int,
    mask: Bool[np.ndarray, "row col"] | None = None,
) -> Float32[np.ndarray, "point txy"]:
    """Place `num` x `num` query points over frame 0, row by row, and keep those on the mask.

    `export_published` can add the dropped points again, as invisible points, for the file layout with a full grid.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        num: Points along each side; a single point lies in the centre.
        mask: The object in frame 0; None keeps all points.

    Returns:
        (frame, x, y), frame 0, pixels.

    Raises:
        AnnotationError: `num` is not positive, or no point lies on the mask.

    Source:
        Grid of the released code (margin width / 64); the paper uses 20 x 20 on objects and 10 x 10 over scenes
        (arXiv 2506.17220, section 3.1).
    """
    if num < 1:
        raise AnnotationError(f"the grid has {num} x {num} points; it needs at least 1 along each side")
    margin = width / _MARGIN
    xs = np.linspace(margin, width - margin, num) if num > 1 else np.asarray([width / 2])
    ys = np.linspace(margin, height - margin, num) if num > 1 else np.asarray([height / 2])
    grid = np.stack([np.zeros(num * num), np.tile(xs, num), np.repeat(ys, num)], axis=1)
    if mask is not None:
        cols = np.clip(grid[:, 1].astype(int), 0, width - 1)
        rows = np.clip(grid[:, 2].astype(int), 0, height - 1)
        grid = grid[mask[rows, cols]]
        if not len(grid):
            raise AnnotationError(f"none of the {num} x {num} grid points lies on the object mask; use a finer grid")
    return grid.astype(np.float32)


def mask_from_file(path: Path, *, height: int, width: int) -> Bool[np.ndarray, "row col"]:
    """Read a mask image: pixels that are brighter than middle grey, or coloured, belong to the object.

    An image whose grey levels are all at most 64 holds numbers of objects; there, every pixel above 0 belongs to it.

    Raises:
        AnnotationError: the sizes of mask and clip differ.
        MediaError: the image cannot be read.
    """
    colors = read_image(path)
    darkest, brightest = colors.min(axis=-1), colors.max(axis=-1)
    coloured = brightest - darkest > _LEAST_CHROMA
    lowest = 0 if brightest.max(initial=0) <= _MOST_OBJECTS and not coloured.any() else 127
    mask: np.ndarray = (colors.mean(axis=-1) > lowest) | coloured
    if mask.shape != (height, width):
        raise AnnotationError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, but the clip is {width}x{height}; "
            "give a mask of the clip's size"
        )
    return mask


def grabcut_mask(frame: UInt8[np.ndarray, "row col rgb"]) -> Bool[np.ndarray, "row col"]:
    """Segment an object in the middle of a frame with GrabCut (Rother et al. 2004).

    The outer 1/8 of the frame on every side counts as background. The result is deterministic.

    Raises:
        AnnotationError: the object covers almost nothing or nearly the whole frame.
    """
    height, width = frame.shape[:2]
    labels = np.zeros((height, width), dtype=np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    inset_x, inset_y = width // _BORDER, height // _BORDER
    rectangle = (inset_x, inset_y, width - 2 * inset_x, height - 2 * inset_y)
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(frame[..., ::-1])
    cv2.grabCut(bgr, labels, rectangle, *models, _ITERATIONS, cv2.GC_INIT_WITH_RECT)
    mask: np.ndarray = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not _SMALLEST_SHARE <= mask.mean() <= _LARGEST_SHARE:
        raise AnnotationError(
            f"GrabCut segmented {mask.mean():.0%} of the frame as object; give masks as files, or use the scene grid"
        )
    return mask
