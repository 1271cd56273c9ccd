"""From rows of match probabilities to positions: argmax, soft-argmax in a window, margin, top-k."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence._backends import choose_backend
from difftrack.correspondence._matches import Matches, unpack
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import QueryTokens

__all__ = [
    "Logits",
    "DisplacementCandidates",
    "point_probabilities",
    "read_moves",
    "read_packed",
    "read_rows",
    "without_best",
]

LONGEST_FUSED_ROW = 32768
"""Tokens of one row that the fused read-out holds in registers."""
RIVAL_DISTANCE = 2
"""Matches of one token are further apart than this, in rows or in columns."""


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
        rows: Match probabilities of the tokens around the points, as `match_rows` gives them; or averages of such rows
            over layers, steps or chunks.
        points: The points that these tokens belong to.
        cols: Columns of the token grid.
        params: `read_out` and its support, `second_softmax`, `window_radius` and `window_temperature` matter here.
    """
    return unpack(read_packed(rows, points, cols=cols, params=params))


def read_packed(
    rows: Float[Tensor, "*frame query_token token"],
    points: QueryTokens,
    *,
    cols: int,
    params: MatchingParams,
    logits: "Logits | None" = None,
) -> Float[Tensor, "*frame point 4"]:
    """Find x, y, probability and margin of the best match of every point; `unpack` names them.

    Args:
        rows: As in `read_rows`, or scores when `logits` says how they become probabilities.
        points: As in `read_rows`.
        cols: As in `read_rows`.
        params: As in `read_rows`.
        logits: How scores become probabilities; None if `rows` are probabilities.
    """
    per_token = params.read_out != "rows"
    fused = choose_backend(params, on_cuda=rows.is_cuda) == "triton" and rows.shape[-1] <= LONGEST_FUSED_ROW
    if fused and len(points.slots):
        from difftrack.correspondence.kernels import read_triton

        readings: Tensor = read_triton(
            rows.reshape(-1, *rows.shape[-2:]),
            None if per_token else points.slots,
            None if per_token else points.weights,
            cols=cols,
            second_softmax=params.second_softmax,
            window_radius=params.window_radius,
            window_temperature=params.window_temperature,
            logit_scale=None if logits is None else logits.scale,
            row_scale=None if logits is None else logits.row_scale,
            column_scale=None if logits is None else logits.column_scale,
        )
        readings = readings.reshape(*rows.shape[:-2], *readings.shape[1:])
        return _of_points(readings, points, cols=cols, params=params) if per_token else readings
    if logits is not None:
        rows = logits.softmax(rows)
    if per_token:
        values = rows.softmax(dim=-1) if params.second_softmax else rows.clone()
        return _of_points(_best_matches(values, cols=cols, params=params), points, cols=cols, params=params)
    return _best_matches(point_probabilities(rows, points, params), cols=cols, params=params)


@dataclass(frozen=True, slots=True)
class DisplacementCandidates:
    """Candidate positions of a point: one for each match of each token around it, with the votes that agree."""

    points_xy_token: Float[Tensor, "*frame point vote xy"]
    share: Float[Tensor, "*frame point vote"]
    """Share of the weight of all votes that agree with this one; see `read_out: displacements`."""

    @property
    def leading_xy_token(self) -> Float[Tensor, "*frame point xy"]:
        """The vote with most weight: with one match per token, the match that `read_rows` gives."""
        leader = self.share.argmax(dim=-1, keepdim=True)
        return self.points_xy_token.take_along_dim(leader[..., None], dim=-2)[..., 0, :]


def read_moves(
    rows: Float[Tensor, "*frame query_token token"],
    points: QueryTokens,
    *,
    cols: int,
    params: MatchingParams = CORRECTED,
    matches_per_token: int = 1,
) -> DisplacementCandidates:
    """Return all votes of the tokens around every point; `read_rows` returns only the majority's.

    Args:
        rows: As in `read_rows`.
        points: As in `read_rows`, of params that read displacements.
        cols: As in `read_rows`.
        params: As in `read_rows`.
        matches_per_token: Each token votes for its best match, then for the best one more than two tokens away from it,
            and so on.
    """
    alone = torch.arange(len(points.tokens), device=rows.device)[:, None]
    weights = torch.ones_like(alone, dtype=torch.float32)
    tokens = QueryTokens(_positions(points, cols).float(), points.tokens, slots=alone, weights=weights)
    readings = []
    for number in range(matches_per_token):
        rows = without_best(rows, cols=cols, distance=RIVAL_DISTANCE) if number else rows
        readings.append(read_packed(rows, tokens, cols=cols, params=replace(params, read_out="rows")))
    # A row with all tokens removed has no position and, with probability 0, no vote.
    found = torch.stack(readings, dim=-2).nan_to_num()
    near, weights, agree = _votes(found, points, cols, params)
    votes = agree * weights[..., None, :]
    support = votes.sum(dim=-1, keepdim=True)
    moved = points.points_xy_token[:, None] + votes @ near[..., :2] / support
    return DisplacementCandidates(points_xy_token=moved, share=support[..., 0] / weights.sum(dim=-1, keepdim=True))


def without_best(
    rows: Float[Tensor, "*frame query_token token"], *, cols: int, distance: int
) -> Float[Tensor, "*frame query_token token"]:
    """Remove the best match from every row, and all tokens up to `distance` rows and columns from it."""
    near, _, _, _ = _window(_argmax(rows), rows.shape[-1] // cols, cols, distance)
    return rows.scatter(-1, near, 0.0)


def _positions(points: QueryTokens, cols: int) -> Int[Tensor, "query_token xy"]:
    """Positions of the tokens around the points."""
    return torch.stack([points.tokens % cols, points.tokens // cols], dim=-1)


@dataclass(frozen=True, slots=True)
class Logits:
    """How raw scores become probabilities: a softmax over row_scale * column_scale * scale * score."""

    scale: float
    row_scale: Float[Tensor, " query_token"] | None = None
    column_scale: Float[Tensor, "frame token"] | None = None

    def softmax(self, scores: Float[Tensor, "frame query_token token"]) -> Float[Tensor, "frame query_token token"]:
        """Apply it, and overwrite the scores."""
        scores = scores.mul_(self.scale)
        if self.row_scale is not None and self.column_scale is not None:
            scores = scores.mul_(self.row_scale[:, None]).mul_(self.column_scale[:, None])
        return scores.softmax(dim=-1)


def _of_points(
    readings: Float[Tensor, "*frame query_token 4"], points: QueryTokens, *, cols: int, params: MatchingParams
) -> Float[Tensor, "*frame point 4"]:
    """Turn the best matches of tokens into those of points."""
    if params.read_out == "argmax_map":
        return points.mix(readings)
    return _moved(readings, points, cols, params)


def _moved(
    readings: Float[Tensor, "*frame query_token 4"], points: QueryTokens, cols: int, params: MatchingParams
) -> Float[Tensor, "*frame point 4"]:
    """Move points by the displacements of the tokens around them.

        x' = x + sum_i w_i d_i / sum_i w_i,   w_i = tent(i - x) * probability of i's best match

    over the tokens i whose displacements d_i agree with d_k, k the one with which most weight agrees. A point at the
    edge of an object thus follows one side, never the mean of both.
    """
    near, weights, agree = _votes(readings[..., None, :], points, cols, params)
    leader = (agree * weights[..., None, :]).sum(dim=-1).argmax(dim=-1, keepdim=True)
    votes = weights * agree.take_along_dim(leader[..., None], dim=-2)[..., 0, :]
    found = (votes[..., None] * near).sum(dim=-2) / votes.sum(dim=-1, keepdim=True)
    return torch.cat([points.points_xy_token + found[..., :2], found[..., 2:]], dim=-1)


def _votes(
    readings: Float[Tensor, "*frame query_token match 4"], points: QueryTokens, cols: int, params: MatchingParams
) -> tuple[
    Float[Tensor, "*frame point vote 4"], Float[Tensor, "*frame point vote"], Bool[Tensor, "*frame point vote vote"]
]:
    """Compute displacement, probability and margin of each vote, the votes' weights, and which votes agree.

    A vote is a match of one of the tokens around the point.
    """
    at = _positions(points, cols)[:, None]
    near = torch.cat([readings[..., :2] - at, readings[..., 2:]], dim=-1)[..., points.slots, :, :]
    weights = (points.weights[..., None] * near[..., 2].clamp(min=1e-30)).flatten(-2)
    displacements = near[..., :2].flatten(-3, -2)
    apart = torch.cdist(displacements, displacements, compute_mode="donot_use_mm_for_euclid_dist")
    return near.flatten(-3, -2), weights, apart < params.support_agreement_token


def _best_matches(
    probabilities: Float[Tensor, "*frame point token"], *, cols: int, params: MatchingParams
) -> Float[Tensor, "*frame point 4"]:
    """Read writable rows: the best value is removed to find the second best, then restored."""
    token = _argmax(probabilities)[..., None]
    best = probabilities.gather(-1, token)
    second = probabilities.scatter_(-1, token, -1.0).amax(dim=-1, keepdim=True).clamp_(min=0)
    if params.window_radius == 0:
        xy = torch.cat([token % cols, token // cols], dim=-1).to(probabilities.dtype)
    else:
        probabilities.scatter_(-1, token, best)
        xy = _soft_argmax(probabilities, token[..., 0], cols=cols, params=params)
    return torch.cat([xy, best, best - second], dim=-1)


def _argmax(probabilities: Float[Tensor, "*frame point token"]) -> Int[Tensor, "*frame point"]:
    """Find the first largest; on a CPU NumPy does that ten times as fast."""
    if probabilities.device.type == "cpu":
        return torch.from_numpy(np.asarray(probabilities.detach().numpy().argmax(axis=-1)))
    return probabilities.argmax(dim=-1)


def _soft_argmax(
    probabilities: Float[Tensor, "*frame point token"],
    token: Int[Tensor, "*frame point"],
    *,
    cols: int,
    params: MatchingParams,
) -> Float[Tensor, "*frame point xy"]:
    """Mean position in the window around the best token, weighted by probability ** (1 / window_temperature)."""
    index, row, col, inside = _window(token, probabilities.shape[-1] // cols, cols, params.window_radius)
    near = probabilities.gather(-1, index)
    peak = near.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(near.dtype).tiny)
    weights = (near / peak) ** (1 / params.window_temperature) * inside
    xy = torch.stack([col, row], dim=-1).to(weights.dtype)
    return (weights[..., None] * xy).sum(dim=-2) / weights.sum(dim=-1, keepdim=True)


def _window(
    token: Int[Tensor, "*frame point"], rows: int, cols: int, radius: int
) -> tuple[
    Int[Tensor, "*frame point near"],
    Int[Tensor, "*frame point near"],
    Int[Tensor, "*frame point near"],
    Bool[Tensor, "*frame point near"],
]:
    """Give the tokens up to `radius` rows and columns from a token, where they lie, and whether there is such a token.

    Where there is none, the nearest of the border takes its place.
    """
    steps = torch.arange(-radius, radius + 1, device=token.device)
    row = token[..., None] // cols + steps.repeat_interleave(len(steps))
    col = token[..., None] % cols + steps.repeat(len(steps))
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    return row.clamp(0, rows - 1) * cols + col.clamp(0, cols - 1), row, col, inside
