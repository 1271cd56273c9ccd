"""Finds the best token of every row in one pass."""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence.kernels._tiles import kernel

__all__ = ["read_triton"]


@kernel
def _softmax_row(scores, inside):
    """Softmax over one row in registers."""
    scores = tl.where(inside, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 0))
    return weights / tl.sum(weights, 0)


@kernel
def _read_kernel(
    rows,
    slots,
    weights,
    row_scale,
    column_scale,
    out,
    num_slots,
    num_tokens,
    cols,
    frame_stride,
    row_stride,
    column_scale_frame,
    scale,
    inverse_temperature,
    CORNERS: tl.constexpr,
    LOGITS: tl.constexpr,
    SCALED: tl.constexpr,
    SECOND_SOFTMAX: tl.constexpr,
    RADIUS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """out[frame, slot] = x, y, probability and margin of the best token of a row, or of a mixture of rows."""
    slot, frame = tl.program_id(0), tl.program_id(1)
    j = tl.arange(0, TOKENS)
    inside = j < num_tokens
    rows += frame.to(tl.int64) * frame_stride
    mixed = tl.zeros([TOKENS], tl.float32)
    for corner in tl.static_range(CORNERS):
        row = slot
        weight = 1.0
        if CORNERS > 1:
            row = tl.load(slots + slot * CORNERS + corner).to(tl.int32)
            weight = tl.load(weights + slot * CORNERS + corner)
        values = tl.load(rows + row.to(tl.int64) * row_stride + j, mask=inside, other=0.0)
        if LOGITS:
            values = values * scale
            if SCALED:
                values = values * tl.load(row_scale + row)
                values = values * tl.load(column_scale + frame * column_scale_frame + j, mask=inside, other=0.0)
            values = _softmax_row(values, inside)
        if SECOND_SOFTMAX:
            values = _softmax_row(values, inside)
        mixed += weight * values
    mixed = tl.where(inside, mixed, -1.0)
    best = tl.max(mixed, 0)
    token = tl.min(tl.where(mixed == best, j, num_tokens - 1), 0)
    second = tl.maximum(tl.max(tl.where(j == token, -1.0, mixed), 0), 0.0)
    x = (token % cols).to(tl.float32)
    y = (token // cols).to(tl.float32)
    if RADIUS > 0:
        near = (tl.abs(j % cols - token % cols) <= RADIUS) & (tl.abs(j // cols - token // cols) <= RADIUS) & inside
        share = tl.where(near, mixed, 0.0) / tl.maximum(best, 1.1754943508222875e-38)
        share = tl.where(share > 0, tl.exp2(tl.log2(tl.where(share > 0, share, 1.0)) * inverse_temperature), 0.0)
        x = tl.sum(share * (j % cols), 0) / tl.sum(share, 0)
        y = tl.sum(share * (j // cols), 0) / tl.sum(share, 0)
    at = out + (frame * num_slots + slot).to(tl.int64) * 4
    tl.store(at, x)
    tl.store(at + 1, y)
    tl.store(at + 2, best)
    tl.store(at + 3, best - second)


def read_triton(
    rows: Float[Tensor, "frame query_token token"],
    slots: Int[Tensor, "point corner"] | None,
    weights: Float[Tensor, "point corner"] | None,
    *,
    cols: int,
    second_softmax: bool,
    window_radius: int,
    window_temperature: float,
    logit_scale: float | None = None,
    row_scale: Float[Tensor, " query_token"] | None = None,
    column_scale: Float[Tensor, "frame token"] | None = None,
) -> Float[Tensor, "frame point 4"]:
    """Read x, y, probability and margin of the best token of every point from rows in one pass.

    Args:
        rows: Probabilities, or scores where `logit_scale` is given; the last axis is dense.
        slots: Rows that a point mixes; None reads every row by itself.
        weights: Weights of these rows.
        cols: Columns of the token grid.
        second_softmax: As in `MatchingParams`.
        window_radius: As in `MatchingParams`.
        window_temperature: As in `MatchingParams`.
        logit_scale: Factor on scores before a softmax over each row.
        row_scale: Another factor per row.
        column_scale: Another factor per column.
    """
    num_frames, num_rows, num_tokens = rows.shape
    num_points = num_rows if slots is None else len(slots)
    out = torch.empty(num_frames, num_points, 4, device=rows.device)
    some = rows if slots is None or weights is None else weights
    block = triton.next_power_of_2(num_tokens)
    _read_kernel[(num_points, num_frames)](
        rows,
        rows if slots is None else slots,
        some,
        rows if row_scale is None else row_scale,
        rows if column_scale is None else column_scale,
        out,
        num_points,
        num_tokens,
        cols,
        rows.stride(0),
        rows.stride(1),
        0 if column_scale is None else column_scale.stride(0),
        1.0 if logit_scale is None else logit_scale,
        1 / window_temperature,
        CORNERS=1 if slots is None else slots.shape[1],
        LOGITS=logit_scale is not None,
        SCALED=row_scale is not None,
        SECOND_SOFTMAX=second_softmax,
        RADIUS=window_radius,
        TOKENS=block,
        num_warps=min(16, max(1, block // 512)),
    )
    return out
