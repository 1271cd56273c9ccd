"""The mean of probabilities over heads on Hopper GPUs.

One program per multiprocessor goes from tile to tile of the result. Its three warp groups each hold 64 tokens of a
target frame by 128 of the source frame in registers while they visit head after head; all three read the tiles of
descriptors that a fourth group, of one warp, loads. Groups are at different places of the loop, so that some take
powers while others wait for their products.
"""
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
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from difftrack.correspondence.kernels._hopper import hopper_kernel, token_tiles

__all__ = ["fill_hopper_head_mean"]

_ROWS, _COLUMNS, _GROUPS = 64, 128, 3
_STAGES = {64: 4, 128: 2}
"""Number of channels -> number of heads whose tiles fit in shared memory."""

_REGISTERS, _LOADER_REGISTERS = 160, 32
"""Registers of a thread; those of the groups and of the loader fill the register file."""


@hopper_kernel
def _load_heads(
    row_tokens,
    column_tokens,
    column,
    block,
    blocks,
    count,
    ready,
    free,
    row_tiles,
    column_tiles,
    num_heads,
    STAGES: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Load every head's tiles for one tile of the result as soon as there is room; return how many heads."""
    for head in range(num_heads):
        stage = count % STAGES
        bar = ready.index(stage)
        mbarrier.wait(free.index(stage), (count // STAGES + 1) & 1)
        mbarrier.expect(bar, row_tokens.block_type.nbytes * GROUPS + column_tokens.block_type.nbytes)
        tma.async_copy_global_to_shared(column_tokens, [head, 0, column, 0], bar, column_tiles.index(stage))
        for group in gl.static_range(GROUPS):
            frame, row = (block + group) // blocks, (block + group) % blocks * row_tiles.shape[3]
            tile = row_tiles.index(stage * GROUPS + group)
            tma.async_copy_global_to_shared(row_tokens, [head, frame, row, 0], bar, tile)
        count += 1
    return count


@hopper_kernel
def _load(
    target_key,
    source_query,
    target_query,
    source_key,
    ready,
    free,
    row_tiles,
    column_tiles,
    num_tiles,
    tiles_down,
    blocks,
    num_heads,
    BOTH: gl.constexpr,
    STAGES: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Load the inputs of the groups, one tile of the result after another."""
    count = 0
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        column, block = tile // tiles_down * column_tiles.shape[3], tile % tiles_down * GROUPS
        count = _load_heads(
            target_key, source_query, column, block, blocks, count, ready, free, row_tiles, column_tiles, num_heads,
            STAGES, GROUPS,
        )  # fmt: skip
        if BOTH:
            count = _load_heads(
                target_query, source_key, column, block, blocks, count, ready, free, row_tiles, column_tiles,
                num_heads, STAGES, GROUPS,
            )  # fmt: skip


@hopper_kernel
def _scores(
    ready,
    free,
    row_tiles,
    column_tiles,
    count,
    SIZE: gl.constexpr,
    GROUP: gl.constexpr,
    STAGES: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Multiply one head's tiles and release their place; a group's threads synchronise here."""
    ROWS: gl.constexpr = row_tiles.shape[3]
    CHANNELS: gl.constexpr = row_tiles.shape[4]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, SIZE, 16])
    stage = count % STAGES
    mbarrier.wait(ready.index(stage), (count // STAGES) & 1)
    rows = row_tiles.index(stage * GROUPS + GROUP).reshape([ROWS, CHANNELS])
    columns = column_tiles.index(stage).reshape([column_tiles.shape[3], CHANNELS]).slice(0, SIZE, 0)
    zeros = gl.zeros([ROWS, SIZE], gl.float32, layout)
    scores = warpgroup_mma(rows, columns.permute((1, 0)), zeros, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    gl.thread_barrier()
    mbarrier.arrive(free.index(stage))
    return scores


@hopper_kernel
def _sum_heads(
    ready,
    free,
    row_tiles,
    column_tiles,
    shifts,
    normaliser,
    normaliser_back,
    out,
    scale,
    count,
    frame,
    row,
    column,
    num_heads,
    num_frames,
    num_rows,
    num_columns,
    SIZE: gl.constexpr,
    GROUP: gl.constexpr,
    BOTH: gl.constexpr,
    STAGES: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Compute one group's share of a tile of the result, whose columns are tokens of the source frame."""
    ROWS: gl.constexpr = row_tiles.shape[3]
    WIDTH: gl.constexpr = column_tiles.shape[3]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, SIZE, 16])
    flat: gl.constexpr = gl.BlockedLayout([WIDTH // (32 * gl.num_warps())], [32], [gl.num_warps()], [0])
    i = row * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    j = column * WIDTH + gl.arange(0, SIZE, gl.SliceLayout(0, layout))
    inside = gl.minimum(frame, num_frames - 1)
    normaliser += inside * num_heads * num_columns
    normaliser += gl.minimum(column * WIDTH + gl.arange(0, WIDTH, flat), num_columns - 1)
    total = gl.zeros([ROWS, SIZE], gl.float32, layout)
    coming = gl.load(normaliser)
    for head in range(num_heads):
        shift = shifts.index(2 * GROUP + head % 2)
        shift.store(coming)
        coming = gl.load(normaliser + gl.minimum(head + 1, num_heads - 1) * num_columns)
        scores = _scores(ready, free, row_tiles, column_tiles, count, SIZE, GROUP, STAGES, GROUPS)
        shift = shift.slice(0, SIZE, 0).load(gl.SliceLayout(0, layout))
        total += gl.exp2(scores * scale - gl.expand_dims(shift, 0))
        count += 1
    if BOTH:
        normaliser_back += inside * num_heads * num_rows + gl.minimum(i, num_rows - 1)
        coming_back = gl.load(normaliser_back)
        for head in range(num_heads):
            shift_back = gl.expand_dims(coming_back, 1)
            coming_back = gl.load(normaliser_back + gl.minimum(head + 1, num_heads - 1) * num_rows)
            scores = _scores(ready, free, row_tiles, column_tiles, count, SIZE, GROUP, STAGES, GROUPS)
            total += gl.exp2(scores * scale - shift_back)
            count += 1
    in_columns = (j < num_columns) & (frame < num_frames)
    at = gl.expand_dims(j, 0) * num_rows + gl.expand_dims(i, 1)
    wanted = gl.expand_dims(in_columns, 0) & gl.expand_dims(i < num_rows, 1)
    gl.store(out + frame.to(gl.int64) * num_rows * num_columns + at, total, mask=wanted)


@hopper_kernel
def _compute(
    ready,
    free,
    row_tiles,
    column_tiles,
    shifts,
    normaliser,
    normaliser_back,
    out,
    scale,
    num_tiles,
    tiles_down,
    blocks,
    num_heads,
    num_frames,
    num_rows,
    num_columns,
    LAST: gl.constexpr,
    GROUP: gl.constexpr,
    BOTH: gl.constexpr,
    STAGES: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Compute one group's share of every tile; the last tile may have half as many columns."""
    count = 0
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        column, block = tile // tiles_down, tile % tiles_down * GROUPS + GROUP
        frame, row = block // blocks, block % blocks
        if (column + 1) * tiles_down < num_tiles:
            _sum_heads(
                ready, free, row_tiles, column_tiles, shifts, normaliser, normaliser_back, out, scale, count, frame,
                row, column, num_heads, num_frames, num_rows, num_columns, column_tiles.shape[3],
                GROUP, BOTH, STAGES, GROUPS,
            )  # fmt: skip
        else:
            _sum_heads(
                ready, free, row_tiles, column_tiles, shifts, normaliser, normaliser_back, out, scale, count, frame,
                row, column, num_heads, num_frames, num_rows, num_columns, LAST,
                GROUP, BOTH, STAGES, GROUPS,
            )  # fmt: skip
        count += 2 * num_heads if BOTH else num_heads


@hopper_kernel
def _head_mean_kernel(
    target_key,
    source_query,
    target_query,
    source_key,
    normaliser,
    normaliser_back,
    out,
    scale,
    num_tiles,
    tiles_down,
    blocks,
    num_heads,
    num_frames,
    num_rows,
    num_columns,
    LAST: gl.constexpr,
    BOTH: gl.constexpr,
    STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,
    LOADER_REGISTERS: gl.constexpr,
):
    """out[frame, i, j] = sum_h 2^(scale <q_hi, k_hj> - n_hi) + 2^(scale <k_hi, q_hj> - n'_hj), j along the rows here.

    Without `BOTH` there is no second term. Blocks of rows of all frames are counted through.
    """
    row_tiles = gl.allocate_shared_memory(
        target_key.dtype, [STAGES * 3] + target_key.block_type.shape, target_key.layout
    )
    column_tiles = gl.allocate_shared_memory(
        source_query.dtype, [STAGES] + source_query.block_type.shape, source_query.layout
    )
    shifts = gl.allocate_shared_memory(
        gl.float32, [6, source_query.block_type.shape[2]], gl.SwizzledSharedLayout(1, 1, 1, [0])
    )
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        mbarrier.init(free.index(stage), count=3)
    fence_async_shared()
    gl.warp_specialize(
        [
            (_compute, (
                ready, free, row_tiles, column_tiles, shifts, normaliser, normaliser_back, out, scale, num_tiles,
                tiles_down, blocks, num_heads, num_frames, num_rows, num_columns, LAST, 0, BOTH,
                STAGES, 3,
            )),
            (_compute, (
                ready, free, row_tiles, column_tiles, shifts, normaliser, normaliser_back, out, scale, num_tiles,
                tiles_down, blocks, num_heads, num_frames, num_rows, num_columns, LAST, 1, BOTH,
                STAGES, 3,
            )),
            (_compute, (
                ready, free, row_tiles, column_tiles, shifts, normaliser, normaliser_back, out, scale, num_tiles,
                tiles_down, blocks, num_heads, num_frames, num_rows, num_columns, LAST, 2, BOTH,
                STAGES, 3,
            )),
            (_load, (
                target_key, source_query, target_query, source_key, ready, free, row_tiles, column_tiles, num_tiles,
                tiles_down, blocks, num_heads, BOTH, STAGES, 3,
            )),
        ],
        [4, 4, 1],
        [REGISTERS, REGISTERS, LOADER_REGISTERS],
    )  # fmt: skip


def fill_hopper_head_mean(
    descriptors: tuple[Tensor, Tensor, Tensor, Tensor],
    normaliser: Float[Tensor, "frame head query_token"],
    normaliser_back: Float[Tensor, "frame head column"] | None,
    out: Float[Tensor, "frame query_token column"],
    *,
    scale: float,
) -> None:
    """Fill `out` as `fill_head_mean` does for one group of all heads; rows are all tokens of the source frame.

    Args:
        descriptors: Source query, target key, source key and target query, [head, frame, token, channel]; the source
            has one frame.
        normaliser: Normalisers of the source's queries.
        normaliser_back: Normalisers of the target's queries; None leaves their direction out.
        out: Dense result.
        scale: Factor on scores.
    """
    source_query, target_key, source_key, target_query = descriptors
    num_heads, num_frames, num_rows, num_channels = target_key.shape
    num_columns = source_query.shape[2]
    blocks = triton.cdiv(num_rows, _ROWS)
    tiles_down, tiles_across = triton.cdiv(num_frames * blocks, _GROUPS), triton.cdiv(num_columns, _COLUMNS)
    last = num_columns - (tiles_across - 1) * _COLUMNS
    programs = torch.cuda.get_device_properties(out.device).multi_processor_count
    _head_mean_kernel[(min(programs, tiles_down * tiles_across),)](
        token_tiles(target_key, _ROWS),
        token_tiles(source_query, _COLUMNS),
        token_tiles(target_query, _ROWS),
        token_tiles(source_key, _COLUMNS),
        normaliser,
        normaliser if normaliser_back is None else normaliser_back,
        out,
        scale,
        tiles_down * tiles_across,
        tiles_down,
        blocks,
        num_heads,
        num_frames,
        num_rows,
        num_columns,
        LAST=_COLUMNS if last > _COLUMNS // 2 else _COLUMNS // 2,
        BOTH=normaliser_back is not None,
        STAGES=_STAGES[64 if num_channels <= 64 else 128],
        REGISTERS=_REGISTERS,
        LOADER_REGISTERS=_LOADER_REGISTERS,
        num_warps=4,
    )
