"""Query-key matching: finds the points of one latent frame in all the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence._backends import pair_rows
from difftrack.correspondence._match_probabilities import Descriptors, RowsBetween, frame_batches, match_rows
from difftrack.correspondence._matches import (
    Matches,
    check_latent_frame,
    given_readings,
    stack_heads,
    unpack,
    without_uniform,
)
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import check_points, query_tokens
from difftrack.correspondence._readout import point_probabilities, read_packed

__all__ = [
    "TopMatches",
    "match_points",
    "match_points_fused",
    "match_points_per_head",
    "match_points_with_heads",
    "match_probabilities",
    "top_matches",
]


@dataclass(frozen=True, slots=True)
class TopMatches:
    """The k most probable tokens of one latent frame for every point, most probable first."""

    points_xy_token: Float[Tensor, "point rank xy"]
    probability: Float[Tensor, "point rank"]


def match_points(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
    head_weights: Float[Tensor, " head"] | None = None,
    cycle: bool = False,
) -> Matches:
    """Match points of the source frame in every other latent frame.

    With i a token of the source frame s and x one of the target frame j,

        F[i, x] = sum_h w_h softmax_x(<q_hsi, k_hjx> / temperature)
        B[i, x] = sum_h w_h softmax_i(<q_hjx, k_hsi> / temperature)
        C = (F + B) / 2,

    or C = F with `directions: forward`. A point between tokens mixes the rows of C of the four tokens around it.

    Args:
        query: Post-RoPE queries of one (clip, layer, step); float16, bfloat16 or float32.
        key: Post-RoPE keys.
        points_xy_token: Points of the source frame in token coordinates, as `points_to_tokens` gives them.
        params: Conventions, backend and memory limit.
        source_frame: Latent frame that the points belong to.
        head_weights: w, scaled here to sum 1; uniform when None.
        cycle: Also match the matches back to the source frame.

    Returns:
        Matches per latent frame, on the device of `query`, in float32.

    Raises:
        ValueError: `source_frame` does not exist, a point is not finite or outside the picture, or the head weights are
            unusable.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eqs. 5 and 6; two directions as in C.2. Departures: decisions 0002, 0003.
    """
    return match_points_fused(
        [(query, key)],
        points_xy_token,
        params=params,
        source_frame=source_frame,
        head_weights=None if head_weights is None else [head_weights],
        cycle=cycle,
    )


def match_points_fused(
    pairs: Sequence[Descriptors],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
    head_weights: Sequence[Float[Tensor, " _"]] | None = None,
    cycle: bool = False,
) -> Matches:
    """Match points by the mean of the match probabilities of several (layer, step).

    Args:
        pairs: Query and key of each (layer, step), all from one clip with one grid.
        points_xy_token: As in `match_points`.
        params: As in `match_points`; the temperature is taken per pair from its own heads and channels.
        source_frame: As in `match_points`.
        head_weights: One vector per pair; uniform when None.
        cycle: As in `match_points`.

    Returns:
        Matches per latent frame.

    Raises:
        ValueError: as in `match_points`, or `pairs` is empty.
    """
    if not pairs:
        raise ValueError("pairs is empty; at least one (query, key) is needed to match")
    check_latent_frame(source_frame, pairs[0][0].shape[1])
    return RowsBetween(pairs, params, head_weights).match(points_xy_token, source_frame, cycle=cycle)


def match_points_per_head(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
    cycle: bool = False,
) -> Matches:
    """Match points by each head alone: `match_points` with a head axis in place of the mean over heads."""
    if not cycle:
        return _with_heads(query, key, points_xy_token, params, source_frame, mean=False)[1]
    weights = torch.eye(query.shape[0])
    return stack_heads(
        [
            match_points(
                query,
                key,
                points_xy_token,
                params=params,
                source_frame=source_frame,
                head_weights=weights[head],
                cycle=cycle,
            )
            for head in range(query.shape[0])
        ]
    )


def match_points_with_heads(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> tuple[Matches, Matches]:
    """Compute `match_points` and `match_points_per_head` at little more than the cost of one."""
    of_mean, of_heads = _with_heads(query, key, points_xy_token, params, source_frame, mean=True)
    return of_mean, of_heads


def _with_heads(
    query: Tensor, key: Tensor, points_xy_token: Tensor, params: MatchingParams, source_frame: int, *, mean: bool
) -> tuple[Matches, Matches]:
    """Compute matches of the mean over heads and of every head; those not requested keep the query positions."""
    num_heads, num_latent_frames, num_rows, cols, _ = query.shape
    check_latent_frame(source_frame, num_latent_frames)
    check_points(points_xy_token, rows=num_rows, cols=cols, params=params)
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params, device=query.device)
    of_mean = given_readings(points.points_xy_token, num_latent_frames)
    of_heads = of_mean.repeat(num_heads, 1, 1, 1)
    for frames in frame_batches(query, points, params, source_frame, groups=num_heads):
        at = slice(frames.start, frames.stop)
        rows = pair_rows(
            query.flatten(2, 3),
            key.flatten(2, 3),
            points.tokens,
            source_frame=source_frame,
            targets=frames,
            params=params,
            per_head=True,
        )
        of_heads[:, at] = read_packed(rows, points, cols=cols, params=params)
        if mean:
            of_mean[at] = read_packed(rows.mean(dim=0), points, cols=cols, params=params)
    for readings in (of_mean, of_heads):
        without_uniform(readings, num_rows * cols, params)
    return unpack(of_mean), unpack(of_heads)


def match_probabilities(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    target_frame: int,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
    head_weights: Float[Tensor, " head"] | None = None,
) -> Float[Tensor, "point row col"]:
    """Give the probability map of every point over one latent frame, as `match_points` computes it.

    With `directions: forward` each map sums to 1; with `both` only its forward half does.

    Raises:
        ValueError: one of the two latent frames does not exist, or a point is not finite or outside the picture.
    """
    _, num_latent_frames, num_rows, cols, _ = query.shape
    check_latent_frame(source_frame, num_latent_frames)
    check_latent_frame(target_frame, num_latent_frames, name="target_frame")
    check_points(points_xy_token, rows=num_rows, cols=cols, params=params)
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params, device=query.device)
    weights = None if head_weights is None else [head_weights]
    rows = match_rows(
        [(query, key)],
        points.tokens,
        source_frame=source_frame,
        target_frames=range(target_frame, target_frame + 1),
        params=params,
        head_weights=weights,
    )
    return point_probabilities(rows[0], points, params).reshape(-1, num_rows, cols)


def top_matches(
    probabilities: Float[Tensor, "point row col"],
    *,
    k: int,
) -> TopMatches:
    """Pick the k most probable tokens for every point from `match_probabilities`.

    Raises:
        ValueError: `k` is not between 1 and the number of tokens.
    """
    num_points, rows, cols = probabilities.shape
    if not 1 <= k <= rows * cols:
        raise ValueError(f"k is {k}; it must lie in 1...{rows * cols}, the tokens of one latent frame")
    probability, token = probabilities.reshape(num_points, -1).topk(k, dim=-1)
    xy = torch.stack([token % cols, token // cols], dim=-1).to(probability.dtype)
    return TopMatches(points_xy_token=xy, probability=probability)
