"""Reads query points from users: in a table, on a grid in any frame, inside a mask."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from difftrack.annotation import query_grid
from difftrack.datasets import DatasetError

__all__ = ["grid_queries", "read_queries"]

_COLUMNS = ("frame", "x", "y")


def read_queries(path: Path) -> Float32[np.ndarray, "point txy"]:
    """Read query points from a CSV file with the columns frame, x and y, in any order; other columns are ignored.

    Args:
        path: CSV file in UTF-8; frames are numbered over the tracked ones, from 0, and x and y are pixels of the video.

    Raises:
        DatasetError: the file is missing, lacks a column, or has an entry that is not a number; the message names the
            line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in _COLUMNS if column not in (reader.fieldnames or [])]:
                raise DatasetError(f"{path}: has no column {missing[0]}; expected {', '.join(_COLUMNS)}")
            rows = [_row(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a table in UTF-8 ({error})") from error
    if not rows:
        raise DatasetError(f"{path}: holds no points; expected one row per point, with {', '.join(_COLUMNS)}")
    return np.asarray(rows, dtype=np.float32)


def _row(path: Path, line: int, row: dict[str, str | None]) -> list[float]:
    try:
        return [float(row[column] or "") for column in _COLUMNS]
    except ValueError as error:
        raise DatasetError(f"{path}, line {line}: {row} does not have numbers in {', '.join(_COLUMNS)}") from error


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
