"""The mean of probabilities over heads, or its largest values, on any GPU."""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence.kernels._tiles import kernel, launch_options, load_tokens, tiles_for

__all__ = ["fill_head_mean"]


@kernel
def _head_mean_kernel(
    asking,
    answering,
    asking_back,
    answering_back,
    rows,
    allowed,
    normaliser,
    normaliser_back,
    out,
    scale,
    num_heads,
    num_rows,
    num_columns,
    num_channels,
    asking_head,
    asking_token,
    answering_head,
    answering_frame,
    answering_token,
    asking_back_head,
    asking_back_token,
    answering_back_head,
    answering_back_frame,
    answering_back_token,
    normaliser_frame,
    out_group,
    GROUP_HEADS: tl.constexpr,
    BOTH: tl.constexpr,
    MAXIMUM: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_ALLOWED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """out[group, frame, i, j] = sum_h 2^(scale <q_hi, k_hj> - n_hi) + 2^(scale <k_hi, q_hj> - n'_hj).

    The heads h of a group follow one another. Without `BOTH` there is no second term; with `MAXIMUM` the largest value
    of every row is raised in out[group, frame, i], which starts at 0; the order does not change a maximum.
    """
    num_frames = tl.num_programs(2) // (num_heads // GROUP_HEADS)
    group, frame = tl.program_id(2) // num_frames, tl.program_id(2) % num_frames
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.arange(0, CHANNELS)
    token = tl.minimum(i, num_rows - 1)
    if HAS_ROWS:
        token = tl.load(rows + token).to(tl.int32)
    column = tl.minimum(j, num_columns - 1)
    c_row, c_column = (c < num_channels)[None, :], (c < num_channels)[:, None]
    first = (group * GROUP_HEADS).to(tl.int64)
    asking += first * asking_head
    answering += first * answering_head + frame.to(tl.int64) * answering_frame
    normaliser += frame * normaliser_frame + first * num_rows
    asking_back += first * asking_back_head
    answering_back += first * answering_back_head + frame.to(tl.int64) * answering_back_frame
    normaliser_back += (frame * num_heads + first) * num_columns
    row = tl.minimum(i, num_rows - 1)
    q_at = (token * asking_token)[:, None] + c[None, :]
    k_at = (column * answering_token)[None, :] + c[:, None]
    k_back_at = (token * asking_back_token)[:, None] + c[None, :]
    q_back_at = (column * answering_back_token)[None, :] + c[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for _ in range(GROUP_HEADS):
        q = load_tokens(asking + q_at, c_row, c_row, False, RAGGED)
        k = load_tokens(answering + k_at, c_column, c_column, False, RAGGED)
        scores = tl.dot(q, k, input_precision=PRECISION)
        total += tl.exp2(scores * scale - tl.load(normaliser + row)[:, None])
        asking += asking_head
        answering += answering_head
        normaliser += num_rows
    if BOTH:
        for _ in range(GROUP_HEADS):
            k = load_tokens(asking_back + k_back_at, c_row, c_row, False, RAGGED)
            q = load_tokens(answering_back + q_back_at, c_column, c_column, False, RAGGED)
            scores = tl.dot(k, q, input_precision=PRECISION)
            total += tl.exp2(scores * scale - tl.load(normaliser_back + column)[None, :])
            asking_back += asking_back_head
            answering_back += answering_back_head
            normaliser_back += num_columns
    if MAXIMUM:
        inside = j < num_columns
        if HAS_ALLOWED:
            inside = tl.load(allowed + j, mask=inside, other=0) != 0
        total = tl.where(inside[None, :], total, 0.0)
        at = group.to(tl.int64) * out_group + frame * num_rows + i
        tl.atomic_max(out + at, tl.max(total, 1), mask=i < num_rows, sem="relaxed")
    else:
        at = (tl.program_id(2).to(tl.int64) * num_rows + i)[:, None] * num_columns + j[None, :]
        tl.store(out + at, total, mask=(i < num_rows)[:, None] & (j < num_columns)[None, :])


def fill_head_mean(
    descriptors: tuple[Tensor, Tensor, Tensor, Tensor],
    rows: Int[Tensor, " query_token"],
    allowed: Bool[Tensor, " column"] | None,
    normaliser: Float[Tensor, "*frame head query_token"],
    normaliser_back: Float[Tensor, "frame head column"] | None,
    out: Tensor,
    *,
    scale: float,
    maximum: bool = False,
) -> None:
    """Fill `out` [group, frame, ...]; the source frame's axis of `descriptors` 0 and 2 has length one.

    With `maximum`, `out` [group, frame, row] starts at 0 and may be part of a larger tensor's second axis.
    """
    source, target, source_back, target_back = descriptors
    num_heads, num_frames, num_columns, num_channels = target.shape
    groups = out.shape[0]
    tile = tiles_for(target).mean
    grid = (triton.cdiv(num_columns, tile.columns), triton.cdiv(len(rows), tile.rows), groups * num_frames)
    _head_mean_kernel[grid](
        source,
        target,
        source_back,
        target_back,
        rows,
        rows if allowed is None else allowed.view(torch.uint8),
        normaliser,
        normaliser if normaliser_back is None else normaliser_back,
        out,
        scale,
        num_heads,
        len(rows),
        num_columns,
        num_channels,
        source.stride(0),
        source.stride(2),
        *target.stride()[:3],
        source_back.stride(0),
        source_back.stride(2),
        *target_back.stride()[:3],
        normaliser.stride(0) if normaliser.ndim == 3 else 0,
        out.stride(0),
        GROUP_HEADS=num_heads // groups,
        BOTH=normaliser_back is not None,
        MAXIMUM=maximum,
        HAS_ROWS=True,
        HAS_ALLOWED=allowed is not None,
        **launch_options(target, tile),
    )
