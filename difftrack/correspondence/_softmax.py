"""The one costly thing: softmax rows averaged over heads, without holding the scores of all heads."""

import importlib.util

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence._params import MatchingParams
from difftrack.correspondence._reference import mean_attention_reference

__all__ = ["mean_attention"]

_BLOCK_BYTES = 1_250_000
"""One block of scores and one of the running mean fit a core's L2 cache together with a head's keys."""


def mean_attention(
    query: Float[Tensor, "head frame query_token channel"],
    key: Float[Tensor, "head frame key_token channel"],
    head_weights: Float[Tensor, " head"],
    *,
    scale: float,
    params: MatchingParams,
    columns: Int[Tensor, " column"] | None = None,
) -> Float[Tensor, "frame query_token out"]:
    """Average attention rows over heads, in float32.

        P[i, j] = sum_h w_h softmax_j(scale <q_hi, k_hj>)

    Args:
        query: Descriptors of the tokens that ask, per pair of latent frames; any float type.
        key: Descriptors of the tokens that answer; an axis `frame` expanded with stride 0 is not copied.
        head_weights: w, float32; 1 / num_heads for the plain mean. Heads of weight 0 are skipped.
        scale: 1 / temperature.
        params: Says which backend computes it and how much memory it may take.
        columns: Key tokens whose probabilities are wanted; all when None. The softmax runs over all keys either way.

    Returns:
        Probabilities [frame, query_token, key_token], or with `columns` [frame, query_token, column].

    Raises:
        ValueError: `backend: triton` is forced where it cannot run.
    """
    used = head_weights.nonzero().flatten()
    if len(used) < len(head_weights):
        query, key, head_weights = query[used], key[used], head_weights[used]
    backend = _choose_backend(params, on_cuda=query.is_cuda)
    if backend == "reference":
        full = mean_attention_reference(query, key, head_weights, scale=scale)
        return full if columns is None else full[..., columns]
    if backend == "triton":
        from difftrack.correspondence._triton import mean_attention_triton

        fused: Tensor = mean_attention_triton(query, key, head_weights, scale=scale, columns=columns)
        return fused
    return _mean_attention_blocked(query, key, head_weights, scale=scale, columns=columns)


def _choose_backend(params: MatchingParams, *, on_cuda: bool) -> str:
    has_triton = importlib.util.find_spec("triton") is not None
    if params.backend == "auto":
        return "triton" if on_cuda and has_triton else "blocked"
    if params.backend == "triton" and not has_triton:
        raise ValueError("backend is 'triton', but Triton is not installed here; use 'auto' or 'blocked'")
    return params.backend


def _mean_attention_blocked(
    query: Float[Tensor, "head frame query_token channel"],
    key: Float[Tensor, "head frame key_token channel"],
    head_weights: Float[Tensor, " head"],
    *,
    scale: float,
    columns: Int[Tensor, " column"] | None,
) -> Float[Tensor, "frame query_token out"]:
    _, num_frames, num_queries, _ = query.shape
    num_keys = key.shape[2]
    mean = query.new_zeros(num_frames, num_queries, num_keys if columns is None else len(columns), dtype=torch.float32)
    block = max(1, min(num_queries, _BLOCK_BYTES // (4 * num_keys)))
    buffer = mean.new_empty(block, num_keys)
    weights = head_weights.tolist()
    for frame in range(num_frames):
        scaled = query[:, frame].float() * scale
        transposed = key[:, frame].float().transpose(1, 2)
        for start in range(0, num_queries, block):
            stop = min(start + block, num_queries)
            scores = buffer[: stop - start]
            for head, weight in enumerate(weights):
                torch.mm(scaled[head, start:stop], transposed[head], out=scores)
                torch.softmax(scores, dim=-1, out=scores)
                wanted = scores if columns is None else scores.index_select(1, columns)
                mean[frame, start:stop].add_(wanted, alpha=weight)
    return mean
