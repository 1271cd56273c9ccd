"""Temporal smoothing that adapts to motion and never crosses a wrong match or an occlusion."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["jitter_of", "smooth_tracks"]

TOLERANCE = 3.0
"""Lines and parabolas may differ by this many times the jitter before motion counts as uneven; chosen on tuning clips,
see docs/tracking.md.
"""


def smooth_tracks(
    points_xy: Float[Tensor, "frame point xy"],
    sure: Bool[Tensor, "frame point"],
    *,
    radius: int,
    limit: float = math.inf,
    jitter: float = 0.0,
    fixed_frames: Int[Tensor, " point"],
) -> Float[Tensor, "frame point xy"]:
    """Replace positions by local fits over up to 2 * radius + 1 frames: lines, parabolas, or something between them.

    Both are least-squares fits with triangular weights, r + 1 - |d|, evaluated in the middle. A line averages most and
    cuts corners; a parabola keeps an even acceleration and averages less. Every point takes

        x' = curved + share * (straight - curved),  share = min(1, TOLERANCE * n * (jitter^2 + noise^2) / D)

    D is its mean |straight - curved|^2, noise^2 its mean |third difference|^2 / 20, which neither velocity nor
    acceleration enters, and n * noise^2 the value of D for independent errors alone. So a point takes lines where
    jitter can explain the bends of its track, and more of parabolas where it cannot. D is measured in whole windows; a
    point without any takes parabolas.

    A window holds only frames with reliable positions. It narrows toward the ends of such a stretch, so uniform motion
    never changes; a parabola through three frames is the position itself.

    Args:
        points_xy: Positions in any unit.
        sure: Where a position is reliable; all others stay unchanged.
        radius: Frames to either side.
        limit: Positions that would move farther than this, in the unit of `points_xy`, stay unchanged; longer
            differences are clipped to it.
        jitter: Minimum error assumed for every track, in the same unit.
        fixed_frames: Query frame of each point, whose position is fixed.

    Returns:
        Smoothed positions in the same unit.
    """
    num_frames, num_points = sure.shape
    straight, curved, unbroken = points_xy.clone(), points_xy.clone(), sure.clone()
    explained = 0.0
    for distance in range(1, min(radius, (num_frames - 1) // 2) + 1):
        inner = slice(distance, num_frames - distance)
        unbroken[:distance] = False
        unbroken[num_frames - distance :] = False
        unbroken[inner] &= sure[: num_frames - 2 * distance] & sure[2 * distance :]
        windows = points_xy.unfold(0, 2 * distance + 1, 1)
        line, parabola = (_middle_weights(distance, degree).to(points_xy) for degree in (1, 2))
        straight[inner] = torch.where(unbroken[inner, :, None], windows @ line, straight[inner])
        curved[inner] = torch.where(unbroken[inner, :, None], windows @ parabola, curved[inner])
        explained = float((line - parabola).square().sum())
    apart = _mean_square(straight - curved, unbroken, limit=limit)
    noise = jitter_of(points_xy, sure, limit=limit)[0] ** 2
    tiny = torch.finfo(points_xy.dtype).tiny
    share = (TOLERANCE * explained * (jitter**2 + noise + tiny) / (apart + tiny)).clamp(max=1.0)
    share = share * unbroken.any(dim=0)
    smoothed = curved + share[:, None] * (straight - curved)
    far = (smoothed - points_xy).norm(dim=-1, keepdim=True) > limit
    smoothed = torch.where(far, points_xy, smoothed)
    points = torch.arange(num_points)
    smoothed[fixed_frames, points] = points_xy[fixed_frames, points]
    return smoothed


def jitter_of(
    points_xy: Float[Tensor, "frame point xy"], sure: Bool[Tensor, "frame point"], *, limit: float = math.inf
) -> tuple[Float[Tensor, " point"], Bool[Tensor, " point"]]:
    """Measure how much each track jitters: the root of its mean |third difference|^2 / 20.

    Independent errors of mean square s^2 give s; neither velocity nor acceleration enters.

    Args:
        points_xy: Positions in any unit.
        sure: Where a position is reliable; four such frames in a row give one difference.
        limit: Longer differences, divided by the root of 20, are clipped to this.

    Returns:
        The jitter in the same unit, 0 if it cannot be measured; and whether it can.
    """
    counted = _throughout(sure, 4)
    return _mean_square(_third_differences(points_xy) / math.sqrt(20), counted, limit=limit).sqrt(), counted.any(dim=0)


def _middle_weights(radius: int, degree: int) -> Float[Tensor, " frame"]:
    """Compute the weights of a window's frames in a polynomial fit evaluated at the window's middle."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = radius + 1 - offsets.abs()
    powers = offsets[:, None] ** torch.arange(degree + 1)
    weighted = weights[:, None] * powers
    middle: Tensor = torch.linalg.solve(powers.T @ weighted, weighted.T)[0]
    return middle


def _third_differences(points_xy: Float[Tensor, "frame point xy"]) -> Float[Tensor, "window point xy"]:
    return points_xy.diff(n=3, dim=0) if len(points_xy) > 3 else points_xy[:0]


def _throughout(sure: Bool[Tensor, "frame point"], length: int) -> Bool[Tensor, "window point"]:
    return sure.unfold(0, length, 1).all(dim=-1) if len(sure) >= length else sure[:0]


def _mean_square(
    differences_xy: Float[Tensor, "window point xy"], counted: Bool[Tensor, "window point"], *, limit: float
) -> Float[Tensor, " point"]:
    """Return the mean over the selected windows; 0 if there are none."""
    squared = differences_xy.square().sum(dim=-1).clamp(max=limit**2) * counted
    mean: Tensor = squared.sum(dim=0) / counted.sum(dim=0).clamp(min=1)
    return mean
