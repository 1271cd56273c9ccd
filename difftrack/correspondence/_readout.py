"""From rows of match probabilities to positions: argmax, soft-argmax in a window, margin, top-k."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence._matches import Matches
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import QueryTokens

__all__ = ["point_probabilities", "read_rows"]


def point_probabilities(
    rows: Float[Tensor, "*frame query_token token"], points: QueryTokens, params: MatchingParams = CORRECTED
) -> Float[Tensor, "*frame point token"]:
    """Mix the probability rows of the tokens around every point into one row per point."""
    return points.mix(rows.softmax(dim=-1) if params.second_softmax else rows)


def read_rows(
    rows: Float[Tensor, "*frame query_token token"],
    points: QueryTokens,
    *,
    cols: int,
    params: MatchingParams = CORRECTED,
) -> Matches:
    """Find the best match of every point.

    Args:
        rows: Match probabilities of the tokens around the points, as `match_rows` gives them; averages of such rows
            over layers, steps or chunks are read just the same.
        points: The points whose tokens these are.
        cols: Columns of the token grid.
        params: `read_out`, `second_softmax`, `window_radius` and `window_temperature` matter here.
    """
    if params.read_out == "argmax_map":
        per_token = _best_matches(rows.softmax(dim=-1) if params.second_softmax else rows, cols=cols, params=params)
        return Matches(
            points_xy_token=points.mix(per_token.points_xy_token),
            probability=points.mix(per_token.probability[..., None])[..., 0],
            margin=points.mix(per_token.margin[..., None])[..., 0],
        )
    return _best_matches(point_probabilities(rows, points, params), cols=cols, params=params)


def _best_matches(probabilities: Float[Tensor, "*frame point token"], *, cols: int, params: MatchingParams) -> Matches:
    best, token = probabilities.max(dim=-1)
    second = probabilities.scatter(-1, token[..., None], -1.0).amax(dim=-1).clamp(min=0)
    if params.window_radius == 0:
        xy = torch.stack([token % cols, token // cols], dim=-1).to(probabilities.dtype)
    else:
        xy = _soft_argmax(probabilities, token, cols=cols, params=params)
    return Matches(points_xy_token=xy, probability=best, margin=best - second)


def _soft_argmax(
    probabilities: Float[Tensor, "*frame point token"],
    token: Int[Tensor, "*frame point"],
    *,
    cols: int,
    params: MatchingParams,
) -> Float[Tensor, "*frame point xy"]:
    """Mean position in the window around the best token, weighted by probability ** (1 / window_temperature)."""
    num_rows = probabilities.shape[-1] // cols
    steps = torch.arange(-params.window_radius, params.window_radius + 1, device=token.device)
    row = token[..., None] // cols + steps.repeat_interleave(len(steps))
    col = token[..., None] % cols + steps.repeat(len(steps))
    inside = (row >= 0) & (row < num_rows) & (col >= 0) & (col < cols)
    index = row.clamp(0, num_rows - 1) * cols + col.clamp(0, cols - 1)
    near = probabilities.gather(-1, index)
    peak = near.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(near.dtype).tiny)
    weights = (near / peak) ** (1 / params.window_temperature) * inside
    xy = torch.stack([col, row], dim=-1).to(weights.dtype)
    return (weights[..., None] * xy).sum(dim=-2) / weights.sum(dim=-1, keepdim=True)
