"""Normalisers of softmax rows on Hopper GPUs: many small programs on a multiprocessor hide each other's latency."""
# Gluon kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001, ANN202, RUF005
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import torch
import triton
from jaxtyping import Float
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from difftrack.correspondence.kernels._hopper import hopper_kernel, load_tile, token_tiles

__all__ = ["hopper_normalisers"]

_ROWS, _COLUMNS, _STAGES = 64, 64, 3
"""Larger tiles read less memory, but fewer programs fit on a multiprocessor; tuned on an H200."""


@hopper_kernel
def _scores(q_tile, k_tile, COLUMNS: gl.constexpr):
    """Multiply the tile of queries with the first columns of a tile of keys."""
    ROWS: gl.constexpr = q_tile.shape[2]
    CHANNELS: gl.constexpr = q_tile.shape[3]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, COLUMNS, 16])
    q = q_tile.reshape([ROWS, CHANNELS])
    k = k_tile.reshape([k_tile.shape[2], CHANNELS]).slice(0, COLUMNS, 0).permute((1, 0))
    zeros = gl.zeros([ROWS, COLUMNS], gl.float32, layout)
    return warpgroup_mma_wait(0, deps=[warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)])


@hopper_kernel
def _eighths(powers, layout: gl.constexpr):
    """Sum every eighth column: one thread holds them all, so threads combine sums only at the end."""
    parts = gl.reshape(powers, [powers.shape[0], powers.shape[1] // 8, 8])
    return gl.convert_layout(gl.sum(parts, 1), layout)


@hopper_kernel
def _online(key, head, frame, q_tile, k_tile, again, scale, layout: gl.constexpr, NUM_KEYS: gl.constexpr):
    """Compute the normalisers with a running maximum per row, one block of keys after the other."""
    COLUMNS: gl.constexpr = k_tile.shape[2]
    largest = gl.full([q_tile.shape[2]], float("-inf"), gl.float32, layout)
    total = gl.full([q_tile.shape[2]], 0.0, gl.float32, layout)
    for block in range((NUM_KEYS + COLUMNS - 1) // COLUMNS):
        gl.thread_barrier()
        load_tile(key, head, frame, block * COLUMNS, again, k_tile, True)
        mbarrier.wait(again, block & 1)
        scores = _scores(q_tile, k_tile, COLUMNS) * scale
        j = block * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(0, layout.parent))
        scores = gl.where(gl.expand_dims(j < NUM_KEYS, 0), scores, float("-inf"))
        larger = gl.maximum(largest, gl.max(scores, 1))
        total = total * gl.exp2(largest - larger) + gl.sum(gl.exp2(scores - gl.expand_dims(larger, 1)), 1)
        largest = larger
    return largest + gl.log2(total)


@hopper_kernel
def _normaliser_kernel(
    query,
    key,
    log_weights,
    normaliser,
    scale,
    log_weight,
    num_heads,
    num_queries,
    query_step,
    key_step,
    NUM_KEYS: gl.constexpr,
    HAS_WEIGHTS: gl.constexpr,
    STAGES: gl.constexpr,
    TAIL: gl.constexpr,
):
    """normaliser[frame, head, i] = log2 sum_j 2^(scale <q_i, k_j>) - log2 w_head.

    Powers are relative to the largest score of a row's first block of keys. If a later score is so much larger that the
    sum leaves float32, the rows are computed again with a running maximum.
    """
    ROWS: gl.constexpr = query.block_type.shape[2]
    COLUMNS: gl.constexpr = key.block_type.shape[2]
    WHOLE: gl.constexpr = NUM_KEYS // COLUMNS
    BLOCKS: gl.constexpr = (NUM_KEYS + COLUMNS - 1) // COLUMNS
    narrow: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, 8, 16])
    head, frame = gl.program_id(1), gl.program_id(2)
    first = gl.program_id(0) * ROWS
    key_frame = frame * key_step
    q_tile = gl.allocate_shared_memory(query.dtype, query.block_type.shape, query.layout)
    k_tiles = gl.allocate_shared_memory(key.dtype, [STAGES] + key.block_type.shape, key.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES + 2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES + 2):
        mbarrier.init(ready.index(stage), count=1)
    fence_async_shared()
    load_tile(query, head, frame * query_step, first, ready.index(STAGES), q_tile, True)
    for stage in gl.static_range(STAGES):
        load_tile(key, head, key_frame, stage * COLUMNS, ready.index(stage), k_tiles.index(stage), stage < BLOCKS)
    mbarrier.wait(ready.index(STAGES), 0)
    mbarrier.wait(ready.index(0), 0)
    base = gl.max(_scores(q_tile, k_tiles.index(0), COLUMNS), 1) * scale
    total = gl.zeros([ROWS, 8], gl.float32, narrow)
    for block in range(WHOLE):
        slot = block % STAGES
        mbarrier.wait(ready.index(slot), (block // STAGES) & 1)
        scores = _scores(q_tile, k_tiles.index(slot), COLUMNS)
        gl.thread_barrier()
        later = block + STAGES
        load_tile(key, head, key_frame, later * COLUMNS, ready.index(slot), k_tiles.index(slot), later < BLOCKS)
        total += _eighths(gl.exp2(scores * scale - gl.expand_dims(base, 1)), narrow)
    if TAIL > 0:
        tail: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, TAIL, 16])
        mbarrier.wait(ready.index(WHOLE % STAGES), (WHOLE // STAGES) & 1)
        scores = _scores(q_tile, k_tiles.index(WHOLE % STAGES), TAIL)
        shift = gl.expand_dims(gl.convert_layout(base, gl.SliceLayout(1, tail)), 1)
        j = WHOLE * COLUMNS + gl.arange(0, TAIL, gl.SliceLayout(0, tail))
        powers = gl.where(gl.expand_dims(j < NUM_KEYS, 0), gl.exp2(scores * scale - shift), 0.0)
        total += _eighths(powers, narrow)
    found = base + gl.log2(gl.convert_layout(gl.sum(total, 1), base.type.layout))
    rows_layout: gl.constexpr = base.type.layout
    if gl.max(gl.where(gl.abs(found) < float("inf"), 0, 1), 0) > 0:
        again = ready.index(STAGES + 1)
        found = _online(key, head, key_frame, q_tile, k_tiles.index(0), again, scale, rows_layout, NUM_KEYS)
    if HAS_WEIGHTS:
        log_weight += gl.load(log_weights + head)
    i = first + gl.arange(0, ROWS, rows_layout)
    at = (frame * num_heads + head).to(gl.int64) * num_queries + i
    gl.store(normaliser + at, found - log_weight, mask=i < num_queries)


def hopper_normalisers(
    query: Float[Tensor, "head _ query_token channel"],
    key: Float[Tensor, "head _ key_token channel"],
    *,
    scale: float,
    log_weight: float,
    log_weights: Float[Tensor, " head"] | None = None,
    out: Float[Tensor, "frame head query_token"] | None = None,
) -> Float[Tensor, "frame head query_token"]:
    """Compute `row_normalisers` of all queries; a single frame of one is paired with every frame of the other."""
    num_heads, _, num_queries, _ = query.shape
    num_keys = key.shape[2]
    num_frames = max(query.shape[1], key.shape[1])
    if out is None:
        out = torch.empty(num_frames, num_heads, num_queries, device=query.device)
    rest = num_keys % _COLUMNS
    _normaliser_kernel[(triton.cdiv(num_queries, _ROWS), num_heads, num_frames)](
        token_tiles(query, _ROWS),
        token_tiles(key, _COLUMNS),
        out if log_weights is None else log_weights,
        out,
        scale,
        log_weight,
        num_heads,
        num_queries,
        int(query.shape[1] > 1),
        int(key.shape[1] > 1),
        NUM_KEYS=num_keys,
        HAS_WEIGHTS=log_weights is not None,
        STAGES=_STAGES,
        TAIL=max(8, triton.next_power_of_2(rest)) if rest else 0,
        num_warps=4,
    )
    return out
