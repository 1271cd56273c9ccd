"""Converts masks, boxes and keypoints to labels of tokens, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = [
    "KeypointLabels",
    "MaskLabels",
    "box_labels",
    "boxes_of_labels",
    "keypoint_labels",
    "keypoints_of_labels",
    "mask_labels",
    "masks_of_labels",
]


@dataclass(frozen=True, slots=True, eq=False)
class MaskLabels:
    """Soft labels of the objects in a mask, and their numbers in the mask."""

    labels: Float32[Tensor, "class row col"]
    """Shares of each token that belong to the background (class 0) and to each object; they sum to 1."""
    objects: tuple[int, ...]
    """The mask's number of each class after the background, ascending."""


def mask_labels(mask: UInt8[np.ndarray, "mask_row mask_col"], *, rows: int, cols: int) -> MaskLabels:
    """Turn a mask into labels of tokens: the share of each token's area that each object covers, exactly.

    Args:
        mask: The number of the object in each pixel; 0 is the background.
        rows: Rows of the token grid.
        cols: Columns of the token grid.

    Raises:
        ValueError: the mask holds no object.
    """
    objects = tuple(int(number) for number in np.unique(mask) if number)
    if not objects:
        raise ValueError("the mask is empty: every pixel is 0; expected the number of an object in some of them")
    down, across = _shares(mask.shape[0], rows), _shares(mask.shape[1], cols)
    covered = [down @ (mask == number).astype(np.float64) @ across.T for number in (0, *objects)]
    return MaskLabels(torch.from_numpy(np.stack(covered)).float(), objects)


def masks_of_labels(
    labels: Float[Tensor, "class row col"], objects: Sequence[int], *, height: int, width: int
) -> UInt8[np.ndarray, "height width"]:
    """Read labels as a mask: resized bilinearly with half-pixel centres, then the likeliest class of every pixel.

    Args:
        labels: Soft labels; class 0 is the background.
        objects: The mask's number of each class after it.
        height: Height of the mask in pixels.
        width: Width of the mask in pixels.
    """
    numbers = np.array([0, *objects], dtype=np.uint8)
    found: np.ndarray = numbers[_resized(labels, height, width).argmax(dim=0).numpy()]
    return found


def box_labels(
    boxes_xyxy_px: Float[np.ndarray, "object 4"], *, height: int, width: int, rows: int, cols: int
) -> Float32[Tensor, "object row col"]:
    """Turn boxes into labels of tokens: the share of each token's area that the box covers; boxes may overlap.

    Args:
        boxes_xyxy_px: (left, top, right, bottom), pixels.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        rows: Rows of the token grid.
        cols: Columns of the token grid.

    Raises:
        ValueError: a box is not finite, or has no area inside the picture.
    """
    labels = []
    for number, (left, top, right, bottom) in enumerate(np.asarray(boxes_xyxy_px, dtype=np.float64).tolist()):
        across = _overlap(left, right, width, cols)
        down = _overlap(top, bottom, height, rows)
        if not (np.isfinite([left, top, right, bottom]).all() and across.sum() > 0 and down.sum() > 0):
            raise ValueError(
                f"box {number} is ({left:g}, {top:g}, {right:g}, {bottom:g}); expected left, top, right, bottom in "
                f"pixels, with an area inside the picture of {width} x {height} px"
            )
        labels.append(np.outer(down, across))
    if not labels:
        raise ValueError("there are no boxes; give at least one")
    return torch.from_numpy(np.stack(labels)).float()


def boxes_of_labels(
    labels: Float[Tensor, "object row col"], *, height: int, width: int
) -> Float32[np.ndarray, "object 4"]:
    """Read labels as boxes: around the largest connected part of the picture where a label is at least one half.

    Returns:
        (left, top, right, bottom) in pixels; NaN for an object that is absent.
    """
    boxes = np.full((len(labels), 4), np.nan, dtype=np.float32)
    for number, share in enumerate(_resized(labels, height, width).numpy()):
        count, _, stats, _ = cv2.connectedComponentsWithStats((share >= 0.5).astype(np.uint8), connectivity=4)
        if count > 1:
            left, top, across, down, _ = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())].tolist()
            boxes[number] = left, top, left + across, top + down
    return boxes


@dataclass(frozen=True, slots=True, eq=False)
class KeypointLabels:
    """Maps of keypoints over tokens, and the radius around its peak in which each is read."""

    labels: Float32[Tensor, "point row col"]
    radius_token: int


def keypoint_labels(
    points_xy_token: Float[np.ndarray, "point xy"], *, rows: int, cols: int, sigma_token: float | None = None
) -> KeypointLabels:
    """Turn keypoints into maps over the tokens, each with largest sum 1.

    Args:
        points_xy_token: (x, y) in token coordinates; those outside the outermost centres count as on them.
        rows: Rows of the token grid.
        cols: Columns of the token grid.
        sigma_token: Width of a Gaussian around each point, in tokens; None uses bilinear weights of the four tokens
            around a point.

    Raises:
        ValueError: a point is not finite, or the width is not positive.
    """
    points = np.asarray(points_xy_token, dtype=np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError(f"points are {points.tolist()}; expected at least one, all of them finite")
    if sigma_token is not None and not sigma_token > 0:
        raise ValueError(f"sigma_token is {sigma_token}; it must be positive, or None")
    x, y = (np.clip(points[:, axis, None], 0, count - 1) for axis, count in ((0, cols), (1, rows)))
    away_x, away_y = np.abs(np.arange(cols) - x), np.abs(np.arange(rows) - y)
    if sigma_token is None:
        across, down, radius = np.clip(1 - away_x, 0, None), np.clip(1 - away_y, 0, None), 1
    else:
        across, down = (np.exp(-0.5 * (away / sigma_token) ** 2) for away in (away_x, away_y))
        radius = max(1, int(np.ceil(2 * sigma_token)))
    maps = down[:, :, None] * across[:, None, :]
    return KeypointLabels(torch.from_numpy(maps / maps.sum(axis=(1, 2), keepdims=True)).float(), radius)


def keypoints_of_labels(
    labels: Float[Tensor, "point row col"], *, radius_token: int
) -> Float32[np.ndarray, "point xy"]:
    """Read maps as positions: the centre of mass of the tokens within the radius of the largest, in token coordinates.

    Returns:
        (x, y) in token coordinates; NaN for a map of zeros.
    """
    points = np.full((len(labels), 2), np.nan, dtype=np.float32)
    for number, values in enumerate(labels.double().cpu().numpy()):
        row, col = np.unravel_index(int(values.argmax()), values.shape)
        if values[row, col] <= 0:
            continue
        top, left = max(0, int(row) - radius_token), max(0, int(col) - radius_token)
        window = values[top : int(row) + radius_token + 1, left : int(col) + radius_token + 1]
        y, x = (np.arange(count) for count in window.shape)
        total = window.sum()
        points[number] = left + (window.sum(axis=0) * x).sum() / total, top + (window.sum(axis=1) * y).sum() / total
    return points


def _resized(labels: Tensor, height: int, width: int) -> Float32[Tensor, "class height width"]:
    resized: Tensor = interpolate(labels.float().cpu()[None], (height, width), mode="bilinear", align_corners=False)[0]
    return resized


def _shares(num_pixels: int, num_tokens: int) -> Float[np.ndarray, "token pixel"]:
    """Compute weights that average pixels over tokens; a pixel on a border is split between both."""
    edges = np.linspace(0, num_pixels, num_tokens + 1)
    pixels = np.arange(num_pixels)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: np.ndarray = np.clip(overlap, 0, None) * (num_tokens / num_pixels)
    return shares


def _overlap(begin: float, end: float, num_pixels: int, num_tokens: int) -> Float[np.ndarray, " token"]:
    """Compute the share of each token, along one axis, that lies between two positions."""
    edges = np.linspace(0, num_pixels, num_tokens + 1)
    overlap = np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin)
    shares: np.ndarray = np.clip(overlap, 0, None) * (num_tokens / num_pixels)
    return shares
