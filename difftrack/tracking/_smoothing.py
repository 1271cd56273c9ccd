"""Temporal smoothing that never crosses an occlusion."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["smooth_tracks"]


def smooth_tracks(
    points_xy: Float[Tensor, "frame point xy"],
    visible: Bool[Tensor, "frame point"],
    *,
    radius: int,
    limit: float = math.inf,
    fixed_frames: Int[Tensor, " point"],
) -> Float[Tensor, "frame point xy"]:
    """Average positions over up to 2 * radius + 1 frames with triangular weights.

        x'_t = sum_d w_d (x_{t-d} + x_{t+d}) / sum_d 2 w_d,   w_d = radius + 1 - |d|

    Only pairs t-d, t+d count between which the point is visible throughout: the window narrows toward the ends of a
    visible stretch, so uniform motion stays as it is everywhere. It also narrows where motion is not uniform: a pair
    that would move a position far speaks of motion or of a wrong match, not of jitter.

    Args:
        points_xy: Positions in any unit.
        visible: True where the point is seen; invisible positions are left alone.
        radius: Frames to either side.
        limit: A pair that alone would move the position farther than this, in the unit of `points_xy`, does not count,
            nor do the pairs beyond it.
        fixed_frames: The query's frame of each point, whose position is given and stays.

    Returns:
        Smoothed positions in the same unit.
    """
    num_frames = points_xy.shape[0]
    total = points_xy * (radius + 1)
    weight = torch.full_like(points_xy[..., :1], radius + 1)
    unbroken = visible.clone()
    for distance in range(1, min(radius, (num_frames - 1) // 2) + 1):
        inner = slice(distance, num_frames - distance)
        both = visible[: num_frames - 2 * distance] & visible[2 * distance :]
        pair = points_xy[: num_frames - 2 * distance] + points_xy[2 * distance :]
        moves = 2 * (radius + 1 - distance) / (radius + 1 + 2 * (radius + 1 - distance))
        close = moves * (pair / 2 - points_xy[inner]).norm(dim=-1) <= limit
        unbroken[:distance] = False
        unbroken[num_frames - distance :] = False
        unbroken[inner] &= both & close
        share = (radius + 1 - distance) * unbroken[inner, :, None]
        total[inner] += share * pair
        weight[inner] += 2 * share
    smoothed = total / weight
    smoothed[fixed_frames, torch.arange(points_xy.shape[1])] = points_xy[fixed_frames, torch.arange(points_xy.shape[1])]
    return smoothed
