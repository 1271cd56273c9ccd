"""Match probabilities: one pass for the normalisers of rows, one for the mean over heads."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence.kernels._gpu import on_hopper
from difftrack.correspondence.kernels._head_mean import fill_head_mean
from difftrack.correspondence.kernels._normaliser import row_normalisers
from difftrack.correspondence.kernels._tiles import readable

__all__ = ["pair_rows_triton"]

_FEWEST_SCORES = 2**28
"""Minimum for the Hopper kernels: with fewer, their launch with tile descriptions costs more than they save."""


def pair_rows_triton(
    query: Float[Tensor, "head latent_frame token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    tokens: Int[Tensor, " query_token"],
    *,
    source_frame: int,
    targets: slice,
    head_weights: Float[Tensor, " head"] | None,
    scale: float,
    both: bool,
    per_head: bool,
) -> Float[Tensor, "group target_frame query_token token"]:
    """Compute `pair_rows`; the arguments are the same.

    Frames are repeated without a copy; query tokens are gathered only for kernels that load whole tiles.
    """
    query, key = readable(query, key)
    num_heads, _, num_tokens, _ = query.shape
    source_query, source_key = query[:, source_frame, None], key[:, source_frame, None]
    target_query, target_key = query[:, targets], key[:, targets]
    log_weight = -1.0 if both else 0.0
    log_weights = None
    if head_weights is not None and not per_head:
        log_weights = head_weights.log2()
    elif not per_head:
        log_weight -= math.log2(num_heads)
    scale *= math.log2(math.e)
    weighting: dict[str, Any] = {"scale": scale, "log_weight": log_weight, "log_weights": log_weights}
    groups = num_heads if per_head else 1
    rows = torch.empty(groups, target_key.shape[1], len(tokens), num_tokens, device=query.device)
    num_scores = num_heads * target_key.shape[1] * (len(tokens) + num_tokens) * num_tokens
    if num_scores >= _FEWEST_SCORES and on_hopper(query, key):
        from difftrack.correspondence.kernels._hopper_head_mean import fill_hopper_head_mean
        from difftrack.correspondence.kernels._hopper_normaliser import hopper_normalisers

        asking_query, asking_key = (_gathered(part, tokens) for part in (source_query, source_key))
        forth = hopper_normalisers(asking_query, target_key, **weighting)
        back = hopper_normalisers(target_query, source_key, **weighting) if both else None
        if not per_head:
            parts = (asking_query, target_key, asking_key, target_query)
            fill_hopper_head_mean(parts, forth, back, rows[0], scale=scale)
            return rows
    else:
        forth = row_normalisers(source_query, target_key, tokens, **weighting)
        back = row_normalisers(target_query, source_key, None, **weighting) if both else None
    parts = (source_query, target_key, source_key, target_query)
    fill_head_mean(parts, tokens, None, forth, back, rows, scale=scale)
    return rows


def _gathered(source: Float[Tensor, "head 1 token channel"], tokens: Int[Tensor, " query_token"]) -> Tensor:
    """Gather tokens with all heads of a token together, as backbones store them, so that reads are contiguous."""
    return source[:, 0].transpose(0, 1).index_select(0, tokens).transpose(0, 1)[:, None]
