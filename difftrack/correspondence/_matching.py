"""Query-key matching: where the points of one latent frame are in all the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence._matches import Matches, check_source_frame, given_matches, join_matches, stack_heads
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import query_tokens
from difftrack.correspondence._readout import point_probabilities, read_rows
from difftrack.correspondence._rows import Descriptors, RowsBetween, match_rows

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
        ValueError: `source_frame` does not exist, or a point or the head weights are unusable.

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
        pairs: Query and key of each (layer, step), all of one clip and grid.
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
    num_latent_frames = pairs[0][0].shape[1]
    check_source_frame(source_frame, num_latent_frames)
    between = RowsBetween(pairs, params, head_weights)
    parts = [given_matches(points_xy_token, cycle=cycle)]
    for target_frames in (range(source_frame), range(source_frame + 1, num_latent_frames)):
        found = between.match(points_xy_token, source_frame, target_frames, cycle=cycle)
        parts = [*found, *parts] if target_frames.start == 0 else [*parts, *found]
    return join_matches(parts)


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
    weights = torch.eye(query.shape[0], device=query.device)
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
    """Give `match_points` and `match_points_per_head` for little more than the price of one of them."""
    num_heads, num_latent_frames, num_rows, cols, _ = query.shape
    check_source_frame(source_frame, num_latent_frames)
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params)
    one_head = torch.eye(num_heads, device=query.device)
    of_mean: list[Matches] = []
    of_heads: list[list[Matches]] = [[] for _ in range(num_heads)]
    for target_frame in range(num_latent_frames):
        if target_frame == source_frame:
            for parts in (of_mean, *of_heads):
                parts.append(given_matches(points_xy_token))
            continue
        total: Tensor | None = None
        for head in range(num_heads):
            rows = match_rows(
                [(query, key)],
                points.tokens,
                source_frame=source_frame,
                target_frames=range(target_frame, target_frame + 1),
                params=params,
                head_weights=[one_head[head]],
            )
            of_heads[head].append(read_rows(rows, points, cols=cols, params=params))
            total = rows if total is None else total.add_(rows)
        if total is not None:
            of_mean.append(read_rows(total.div_(num_heads), points, cols=cols, params=params))
    return join_matches(of_mean), stack_heads([join_matches(parts) for parts in of_heads])


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
    """Give the probability map of every point over one latent frame, as `match_points` sees it.

    With `directions: forward` each map sums to 1; with `both` only its forward half does.
    """
    _, _, num_rows, cols, _ = query.shape
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params)
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
