"""Where tracking starts: grids of query points in frame 0, and the object that they are to stay on."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from difftrack.annotation._errors import AnnotationError
from difftrack.media import read_image

__all__ = ["grabcut_mask", "mask_from_file", "query_grid"]

_MARGIN = 64
"""The outermost points lie width / 64 inside the frame, on all four sides."""
_BORDER = 8
"""GrabCut starts from the frame less an eighth on every side."""
_ITERATIONS = 5
_SMALLEST_SHARE, _LARGEST_SHARE = 0.01, 0.9
"""Shares of the frame that a segmented object may take."""


def query_grid(
    height: int,
    width: int,
    num: int,
    mask: Bool[np.ndarray, "row col"] | None = None,
) -> Float32[np.ndarray, "point txy"]:
    """Lay `num` x `num` query points over frame 0, row by row, and keep those on the mask.

    The points that the mask drops can be put back, invisible, where a file layout wants the whole grid
    (`export_published`).

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        num: Points along each side; one lies in the centre.
        mask: The object in frame 0; None keeps all points.

    Returns:
        (frame, x, y), frame 0, pixels.

    Raises:
        AnnotationError: `num` is not positive, or no point lies on the mask.

    Source:
        Grid of the released code (margin width / 64); the paper takes 20 x 20 on objects and 10 x 10 over scenes
        (arXiv 2506.17220, section 3.1).
    """
    if num < 1:
        raise AnnotationError(f"a grid of {num} x {num} points has none; wanted: at least 1")
    margin = width / _MARGIN
    xs = np.linspace(margin, width - margin, num) if num > 1 else np.asarray([width / 2])
    ys = np.linspace(margin, height - margin, num) if num > 1 else np.asarray([height / 2])
    grid = np.stack([np.zeros(num * num), np.tile(xs, num), np.repeat(ys, num)], axis=1)
    if mask is not None:
        cols = np.clip(grid[:, 1].astype(int), 0, width - 1)
        rows = np.clip(grid[:, 2].astype(int), 0, height - 1)
        grid = grid[mask[rows, cols]]
        if not len(grid):
            raise AnnotationError(f"none of {num} x {num} grid points lies on the object mask; take a finer grid")
    return grid.astype(np.float32)


def mask_from_file(path: Path, *, height: int, width: int) -> Bool[np.ndarray, "row col"]:
    """Read a mask picture: brighter than middle grey is object.

    Raises:
        AnnotationError: the picture has another size than the clip.
        MediaError: it cannot be read.
    """
    mask = np.asarray(read_image(path).mean(axis=-1) > 127)
    if mask.shape != (height, width):
        raise AnnotationError(f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, the clip {width}x{height}")
    return mask


def grabcut_mask(frame: UInt8[np.ndarray, "row col rgb"]) -> Bool[np.ndarray, "row col"]:
    """Cut the object out of a frame that shows it in the middle, by GrabCut (Rother et al. 2004).

    Everything outside a rectangle an eighth inside the frame is taken for background. Deterministic.

    Raises:
        AnnotationError: what was found is next to nothing or nearly everything.
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
            f"GrabCut takes {mask.mean():.0%} of the frame for the object; give masks by file, or take the scene grid"
        )
    return mask
