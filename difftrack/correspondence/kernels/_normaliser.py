"""Normalisers of softmax rows, by the online softmax, on any GPU."""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence.kernels._tiles import kernel, launch_options, load_tokens, tiles_for

__all__ = ["row_normalisers"]


@kernel
def _add_keys(
    q,
    key,
    allowed,
    largest,
    total,
    start,
    scale,
    num_channels,
    key_token,
    NUM_KEYS: tl.constexpr,
    HAS_ALLOWED: tl.constexpr,
    MASKED: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add one block of keys to the running maximum and sum of every row."""
    j = start + tl.arange(0, COLUMNS)
    c = tl.arange(0, CHANNELS)
    pointers = key + j[None, :] * key_token + c[:, None]
    k = load_tokens(pointers, (j < NUM_KEYS)[None, :], (c < num_channels)[:, None], MASKED, RAGGED)
    scores = tl.dot(q, k, input_precision=PRECISION)
    if HAS_ALLOWED:
        inside = tl.load(allowed + j, mask=j < NUM_KEYS, other=0) != 0
        scores = tl.where(inside[None, :], scores, float("-inf"))
    elif MASKED:
        scores = tl.where((j < NUM_KEYS)[None, :], scores, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, 1) * scale)
    base = tl.where(larger == float("-inf"), 0.0, larger)
    total = total * tl.exp2(largest - base) + tl.sum(tl.exp2(scores * scale - base[:, None]), 1)
    return larger, total


@kernel
def _normaliser_kernel(
    query,
    key,
    rows,
    allowed,
    log_weights,
    normaliser,
    scale,
    log_weight,
    num_heads,
    num_queries,
    num_channels,
    query_head,
    query_frame,
    query_token,
    key_head,
    key_frame,
    key_token,
    NUM_KEYS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_ALLOWED: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """normaliser[frame, head, i] = log2 sum_j 2^(scale <q_i, k_j>) - log2 w_head, by the online softmax."""
    head, frame = tl.program_id(1), tl.program_id(2)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, CHANNELS)
    query += head.to(tl.int64) * query_head + frame.to(tl.int64) * query_frame
    key += head.to(tl.int64) * key_head + frame.to(tl.int64) * key_frame
    token = i
    if HAS_ROWS:
        token = tl.load(rows + i, mask=i < num_queries, other=0).to(tl.int32)
    q_mask = (i < num_queries)[:, None] & (c < num_channels)[None, :]
    q = tl.load(query + token[:, None] * query_token + c[None, :], mask=q_mask, other=0.0)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, NUM_KEYS // COLUMNS * COLUMNS, COLUMNS):
        largest, total = _add_keys(
            q, key, allowed, largest, total, start, scale, num_channels, key_token,
            NUM_KEYS, HAS_ALLOWED, False, COLUMNS, CHANNELS, RAGGED, PRECISION,
        )  # fmt: skip
    if NUM_KEYS % COLUMNS != 0:
        largest, total = _add_keys(
            q, key, allowed, largest, total, NUM_KEYS // COLUMNS * COLUMNS, scale, num_channels, key_token,
            NUM_KEYS, HAS_ALLOWED, True, COLUMNS, CHANNELS, RAGGED, PRECISION,
        )  # fmt: skip
    out = normaliser + (frame * num_heads + head).to(tl.int64) * num_queries + i
    if HAS_WEIGHTS:
        log_weight += tl.load(log_weights + head)
    tl.store(out, largest + tl.log2(total) - log_weight, mask=i < num_queries)


def row_normalisers(
    query: Float[Tensor, "head _ _ channel"],
    key: Float[Tensor, "head _ key_token channel"],
    rows: Int[Tensor, " query_token"] | None,
    *,
    scale: float,
    log_weight: float,
    log_weights: Float[Tensor, " head"] | None = None,
    allowed: Bool[Tensor, " key_token"] | None = None,
    out: Float[Tensor, "frame head query_token"] | None = None,
) -> Float[Tensor, "frame head query_token"]:
    """Give the normaliser of every (frame, head, query): log2 of the sum of its row, less log2 of the head's weight.

    Args:
        query: Queries of one frame, paired with the keys of all frames, or of as many frames as `key`.
        key: Keys of one frame, or of as many frames as `query`.
        rows: Query tokens to compute; all when None.
        scale: Factor on scores, after which powers of two are summed.
        log_weight: Subtracted from every normaliser.
        log_weights: Also subtracted, per head.
        allowed: Keys that count.
        out: Dense result tensor.
    """
    num_frames = max(query.shape[1], key.shape[1])
    query, key = (part.expand(-1, num_frames, -1, -1) for part in (query, key))
    num_heads, _, num_queries, num_channels = query.shape
    num_queries = num_queries if rows is None else len(rows)
    if out is None:
        out = torch.empty(num_frames, num_heads, num_queries, device=query.device)
    tile = tiles_for(key).normaliser
    _normaliser_kernel[(triton.cdiv(num_queries, tile.rows), num_heads, num_frames)](
        query,
        key,
        out if rows is None else rows,
        out if allowed is None else allowed.view(torch.uint8),
        out if log_weights is None else log_weights,
        out,
        scale,
        log_weight,
        num_heads,
        num_queries,
        num_channels,
        *query.stride()[:3],
        *key.stride()[:3],
        NUM_KEYS=key.shape[2],
        HAS_ROWS=rows is not None,
        HAS_ALLOWED=allowed is not None,
        HAS_WEIGHTS=log_weights is not None,
        **launch_options(key, tile),
    )
    return out
