"""Reads query points from users: in a table, on a grid in any frame, inside a mask."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from difftrack.annotation import query_grid
from difftrack.datasets import DatasetError, read_table

__all__ = ["grid_queries", "read_queries"]

_COLUMNS = ("frame", "x", "y")


def read_queries(path: Path) -> Float32[np.ndarray, "point txy"]:
    """Read query points from a table with the columns frame, x and y; other columns are ignored.

    Args:
        path: A file that `datasets.read_table` reads; frames are numbered over the tracked ones, from 0, and x and y
            are pixels of the video.

    Raises:
        DatasetError: the file is missing, lacks a column, or has an entry that is not a number; the message names the
            line.
    """
    rows = [_row(path, line, cells) for line, cells in read_table(path, _COLUMNS)]
    if not rows:
        raise DatasetError(f"{path}: holds no points; expected one row per point, with {', '.join(_COLUMNS)}")
    return np.asarray(rows, dtype=np.float32)


def _row(path: Path, line: int, cells: Mapping[str, str]) -> list[float]:
    try:
        return [float(cells[column]) for column in _COLUMNS]
    except ValueError as error:
        found = ", ".join(f"{column} {cells[column]!r}" for column in _COLUMNS)
        raise DatasetError(f"{path}, line {line}: {found} are not all numbers") from error


def grid_queries(
    height: int, width: int, num: int, *, frame: int = 0, mask: Bool[np.ndarray, "row col"] | None = None
) -> Float32[np.ndarray, "point txy"]:
    """Place a grid of `num` x `num` query points on a frame; with a mask, over its bounding box, and only inside it.

    Args:
        height: Height of the video in pixels.
        width: Width of the video in pixels.
        num: Points along each side.
        frame: Frame of the points.
        mask: Area for the points.

    Returns:
        (frame, x, y), pixels.

    Raises:
        DatasetError: the mask has another size than the video, or is black.
        AnnotationError: `num` is not positive, or no point lies on the mask.
    """
    if mask is None:
        points = query_grid(height, width, num)
    else:
        if mask.shape != (height, width) or not mask.any():
            colour = "white somewhere" if mask.any() else "black throughout"
            raise DatasetError(
                f"the mask is {mask.shape[1]}x{mask.shape[0]} and {colour}; expected {width}x{height} pixels, white "
                "where points are placed"
            )
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        points = query_grid(box.shape[0], box.shape[1], num, box)
        points[:, 1:] += (cols[0], rows[0])
    points[:, 0] = frame
    return points
