"""The query-key part on CUDA: one fused pass for the row normalisers, one for the mean over heads.

Imported only when it is chosen, so that machines without Triton never see it. Scores live in registers; the only large
array written is the result. Products and sums are in float32 whatever the type of the descriptors.
"""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["mean_attention_triton"]

_BLOCK = 64
"""Query and key tokens per program; the channels of one head are held whole."""


@triton.jit
def _row_lse_kernel(
    query,
    key,
    lse,
    scale,
    num_heads,
    num_queries,
    num_keys,
    num_channels,
    query_head,
    query_frame,
    query_token,
    key_head,
    key_frame,
    key_token,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """lse[frame, head, i] = log sum_j exp(scale <q_i, k_j>), by the online softmax."""
    head, frame = tl.program_id(1), tl.program_id(2)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, CHANNELS)
    query += head * query_head + frame * query_frame
    key += head * key_head + frame * key_frame
    q_mask = (i < num_queries)[:, None] & (c < num_channels)[None, :]
    q = tl.load(query + i[:, None] * query_token + c[None, :], mask=q_mask, other=0.0)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_keys, BLOCK):
        j = start + tl.arange(0, BLOCK)
        k_mask = (c < num_channels)[:, None] & (j < num_keys)[None, :]
        k = tl.load(key + j[None, :] * key_token + c[:, None], mask=k_mask, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        scores = tl.where((j < num_keys)[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(scores - larger[:, None]), 1)
        largest = larger
    out = lse + (frame * num_heads + head) * num_queries + i
    tl.store(out, largest + tl.log(total), mask=i < num_queries)


@triton.jit
def _head_mean_kernel(
    query,
    key,
    lse,
    head_weights,
    mean,
    scale,
    num_heads,
    num_queries,
    num_keys,
    num_channels,
    query_head,
    query_frame,
    query_token,
    key_head,
    key_frame,
    key_token,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """mean[frame, i, j] = sum_h w_h exp(scale <q_hi, k_hj> - lse[frame, h, i])."""
    frame = tl.program_id(2)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, CHANNELS)
    q_mask = (i < num_queries)[:, None] & (c < num_channels)[None, :]
    k_mask = (c < num_channels)[:, None] & (j < num_keys)[None, :]
    q_at = query + frame * query_frame + i[:, None] * query_token + c[None, :]
    k_at = key + frame * key_frame + j[None, :] * key_token + c[:, None]
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for head in range(num_heads):
        q = tl.load(q_at + head * query_head, mask=q_mask, other=0.0)
        k = tl.load(k_at + head * key_head, mask=k_mask, other=0.0)
        row_lse = tl.load(lse + (frame * num_heads + head) * num_queries + i, mask=i < num_queries, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        total += tl.load(head_weights + head) * tl.exp(scores - row_lse[:, None])
    out = mean + (frame * num_queries + i)[:, None] * num_keys + j[None, :]
    tl.store(out, total, mask=(i < num_queries)[:, None] & (j < num_keys)[None, :])


def mean_attention_triton(
    query: Float[Tensor, "head frame query_token channel"],
    key: Float[Tensor, "head frame key_token channel"],
    head_weights: Float[Tensor, " head"],
    *,
    scale: float,
    columns: Int[Tensor, " column"] | None,
) -> Float[Tensor, "frame query_token out"]:
    """Compute `mean_attention` with two Triton kernels; the arguments are the same.

    Expanded frames (stride 0) are read in place. With `columns` the second pass sees only the keys asked for.
    """
    query, key = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key))
    num_heads, num_frames, num_queries, num_channels = query.shape
    shape = {
        "BLOCK": _BLOCK,
        "CHANNELS": max(16, triton.next_power_of_2(num_channels)),
        "PRECISION": "ieee",
    }
    query_blocks = triton.cdiv(num_queries, _BLOCK)
    lse = torch.empty(num_frames, num_heads, num_queries, device=query.device)
    sizes = (num_heads, num_queries, key.shape[2], num_channels)
    strides = (*query.stride()[:3], *key.stride()[:3])
    _row_lse_kernel[(query_blocks, num_heads, num_frames)](query, key, lse, scale, *sizes, *strides, **shape)
    wanted = key if columns is None else key.index_select(2, columns)
    mean = torch.empty(num_frames, num_queries, wanted.shape[2], device=query.device)
    sizes = (num_heads, num_queries, wanted.shape[2], num_channels)
    strides = (*query.stride()[:3], *wanted.stride()[:3])
    grid = (query_blocks, triton.cdiv(wanted.shape[2], _BLOCK), num_frames)
    _head_mean_kernel[grid](query, wanted, lse, head_weights, mean, scale, *sizes, *strides, **shape)
    return mean
