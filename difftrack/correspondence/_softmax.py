"""The one costly thing: softmax rows averaged over heads, without holding the scores of all heads."""

import importlib.util
from collections.abc import Callable, Iterator
from itertools import repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence._params import MatchingParams
from difftrack.correspondence._reference import mean_attention_reference

__all__ = ["as_float", "mean_attention", "mean_attention_blocked"]

_BLOCK_BYTES = 1_250_000
"""One block of scores, which a matrix product, a softmax and a sum visit in turn while it is in a core's cache."""

_CUDA_BLOCK_BYTES = 32_000_000

_MIN_BLOCK_ROWS = 64


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
    return mean_attention_blocked(query, key, head_weights, scale=scale, columns=columns)


def _choose_backend(params: MatchingParams, *, on_cuda: bool) -> str:
    has_triton = importlib.util.find_spec("triton") is not None
    if params.backend == "auto":
        return "triton" if on_cuda and has_triton else "blocked"
    if params.backend == "triton" and not has_triton:
        raise ValueError("backend is 'triton', but Triton is not installed here; use 'auto' or 'blocked'")
    return params.backend


def mean_attention_blocked(
    query: Float[Tensor, "head frame query_token channel"],
    key: Float[Tensor, "head frame key_token channel"],
    head_weights: Float[Tensor, " head"],
    *,
    scale: float,
    columns: Int[Tensor, " column"] | None = None,
) -> Float[Tensor, "frame query_token out"]:
    """Compute `mean_attention` block by block of query tokens, one head at a time, so that scores stay in cache."""
    _, num_frames, num_queries, _ = query.shape
    num_keys = key.shape[2]
    if columns is not None and len(columns) > num_keys // 2:
        every = mean_attention_blocked(query, key, head_weights, scale=scale)
        return every.index_select(-1, columns)
    mean = torch.empty(num_frames, num_queries, num_keys if columns is None else len(columns), device=query.device)
    buffer = mean.new_empty(_block_rows(num_keys, mean.device), num_keys)
    queries = _per_frame(query, lambda tokens: as_float(tokens) * scale)
    keys = _per_frame(key, lambda tokens: as_float(tokens).transpose(1, 2))
    weights = head_weights.tolist()
    for frame, (asking, answering) in enumerate(zip(queries, keys, strict=True)):
        for start in range(0, num_queries, len(buffer)):
            out = mean[frame, start : start + len(buffer)]
            scores = buffer[: len(out)]
            for head, weight in enumerate(weights):
                torch.mm(asking[head, start : start + len(out)], answering[head], out=scores)
                torch.softmax(scores, dim=-1, out=scores)
                wanted = scores if columns is None else scores.index_select(1, columns)
                if head == 0:
                    torch.mul(wanted, weight, out=out)
                else:
                    out.add_(wanted, alpha=weight)
    return mean


def as_float(tokens: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
    """Lay tokens out densely in float32: heads that are views into wider rows make matrix products half as fast."""
    return tokens.float().contiguous()


def _block_rows(num_columns: int, device: torch.device) -> int:
    """How many rows of float32 scores to hold at once: what a CPU core's cache takes, or what keeps a GPU busy.

    Not fewer than `_MIN_BLOCK_ROWS`, below which a matrix product spends its time on packing the keys.
    """
    limit = _BLOCK_BYTES if device.type == "cpu" else _CUDA_BLOCK_BYTES
    return max(_MIN_BLOCK_ROWS, limit // (4 * num_columns))


def _per_frame(
    tokens: Float[Tensor, "head frame token channel"], prepare: Callable[[Tensor], Tensor]
) -> Iterator[Float[Tensor, "head _ _"]]:
    """Prepare the tokens of one frame after the other, or only once where all frames are the same (stride 0)."""
    if tokens.stride(1) == 0:
        yield from repeat(prepare(tokens[:, 0]), tokens.shape[1])
    else:
        yield from (prepare(frame) for frame in tokens.unbind(dim=1))
