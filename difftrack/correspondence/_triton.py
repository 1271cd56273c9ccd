"""Matching and attention on CUDA: one fused pass for the normalisers of rows, one for the mean over heads.

Imported only when it is chosen, so that machines without Triton never see it. Scores live in registers; the only large
array written is the result. Descriptors enter the matrix products in their own type; sums are float32.
"""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001, ANN202, ANN401, SIM108
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["attention_parts_triton", "pair_rows_triton", "read_triton"]


@dataclass(frozen=True, slots=True)
class Tile:
    """How one program of a kernel is cut."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of both kernels for descriptors of one kind."""

    normaliser: Tile
    mean: Tile


TILES = {
    64: Tiles(normaliser=Tile(128, 128, 8, 3), mean=Tile(64, 128, 4, 4)),
    128: Tiles(normaliser=Tile(64, 64, 4, 3), mean=Tile(64, 128, 4, 2)),
    256: Tiles(normaliser=Tile(64, 64, 4, 2), mean=Tile(64, 64, 4, 2)),
}
"""By the most channels of a head that they are for, in half precision; 64 and 128 as tried on an H200."""

FULL_PRECISION = Tiles(normaliser=Tile(32, 32, 8, 2), mean=Tile(32, 32, 8, 2))
"""For float32, whose exact products keep their operands in registers."""


def _kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: the function itself, which an import hook that checks types may have wrapped."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _load_tokens(pointers, token_mask, channel_mask, MASKED: tl.constexpr, RAGGED: tl.constexpr):
    """Load a tile of tokens; a mask costs time, so there is one only where tokens or channels end within the tile."""
    if MASKED or RAGGED:
        tile = tl.load(pointers, mask=token_mask & channel_mask, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@_kernel
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
    """Take one block of keys into the running maximum and sum of every row."""
    j = start + tl.arange(0, COLUMNS)
    c = tl.arange(0, CHANNELS)
    pointers = key + j[None, :] * key_token + c[:, None]
    k = _load_tokens(pointers, (j < NUM_KEYS)[None, :], (c < num_channels)[:, None], MASKED, RAGGED)
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


@_kernel
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


@_kernel
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
    of every row is raised in out[group, frame, i], which starts at 0: a maximum is the same in whatever order.
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
        q = _load_tokens(asking + q_at, c_row, c_row, False, RAGGED)
        k = _load_tokens(answering + k_at, c_column, c_column, False, RAGGED)
        scores = tl.dot(q, k, input_precision=PRECISION)
        total += tl.exp2(scores * scale - tl.load(normaliser + row)[:, None])
        asking += asking_head
        answering += answering_head
        normaliser += num_rows
    if BOTH:
        for _ in range(GROUP_HEADS):
            k = _load_tokens(asking_back + k_back_at, c_row, c_row, False, RAGGED)
            q = _load_tokens(answering_back + q_back_at, c_column, c_column, False, RAGGED)
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


@_kernel
def _masses_kernel(
    sums,
    whole,
    mass,
    num_heads,
    num_points,
    NUM_PARTS: tl.constexpr,
    POINTS: tl.constexpr,
) -> None:
    """whole[head, i] = log2 sum_part 2^sums[part, head, i], and mass[head, part, i] = 2^(sums - whole)."""
    head = tl.program_id(1)
    i = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    inside = i < num_points
    sums += head * num_points + i
    largest = tl.full([POINTS], float("-inf"), tl.float32)
    total = tl.zeros([POINTS], tl.float32)
    for part in range(NUM_PARTS):
        value = tl.load(sums + part * num_heads * num_points, mask=inside, other=0.0)
        larger = tl.maximum(largest, value)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(largest - base) + tl.exp2(value - base)
        largest = larger
    normaliser = largest + tl.log2(total)
    tl.store(whole + head * num_points + i, normaliser, mask=inside)
    mass += head * NUM_PARTS * num_points + i
    for part in range(NUM_PARTS):
        value = tl.load(sums + part * num_heads * num_points, mask=inside, other=0.0)
        tl.store(mass + part * num_points, tl.exp2(value - normaliser), mask=inside)


@_kernel
def _softmax_row(scores, inside):
    """Softmax over one row in registers."""
    scores = tl.where(inside, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 0))
    return weights / tl.sum(weights, 0)


@_kernel
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
    """Compute `pair_rows`; the arguments are the same. Tokens are gathered and frames repeated without a copy."""
    query, key = _readable(query, key)
    num_heads, _, num_tokens, _ = query.shape
    source_query, source_key = query[:, source_frame, None], key[:, source_frame, None]
    target_query, target_key = query[:, targets], key[:, targets]
    num_frames, log_weight = target_key.shape[1], -1.0 if both else 0.0
    logs = None
    if head_weights is not None and not per_head:
        logs = head_weights.log2()
    elif not per_head:
        log_weight -= math.log2(num_heads)
    scale *= math.log2(math.e)

    def normaliser(asking: Tensor, answering: Tensor, rows: Tensor | None) -> Tensor:
        asking, answering = (part.expand(-1, num_frames, -1, -1) for part in (asking, answering))
        return _normaliser(asking, answering, rows, scale=scale, log_weight=log_weight, log_weights=logs)

    forth = normaliser(source_query, target_key, tokens)
    back = normaliser(target_query, source_key, None) if both else None
    groups = num_heads if per_head else 1
    rows = torch.empty(groups, num_frames, len(tokens), num_tokens, device=query.device)
    parts = (source_query, target_key, source_key, target_query)
    _head_mean(parts, tokens, None, forth, back, rows, scale=scale)
    return rows


def attention_parts_triton(
    query: Float[Tensor, "head token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"] | None,
    tokens: Int[Tensor, " point"],
    *,
    mean: bool,
    per_head: bool,
) -> tuple[
    Float[Tensor, "head part point"], Float[Tensor, "part point"] | None, Float[Tensor, "head part point"] | None
]:
    """Compute `attention_parts`; the arguments are the same.

    One pass gives the normaliser of every (frame, head, point), of which masses and the whole row's normaliser follow;
    another the largest value of every frame.
    """
    query, key, text_key = _readable(query, key, text_key)
    num_heads, num_frames, _, num_channels = key.shape
    scale = math.log2(math.e) / math.sqrt(num_channels)
    asking = query[:, None]
    parts: list[tuple[Tensor, Tensor | None]] = [(key, None)]
    if text_key.shape[1]:
        parts = [(text_key[:, None], text_mask), *parts]
    sums = torch.empty(1 + num_frames, num_heads, len(tokens), device=key.device)
    if len(parts) == 1:
        sums[0].fill_(-math.inf)
    for answering, allowed in parts:
        out = sums[1:] if answering is key else sums[:1]
        frames = asking.expand(-1, answering.shape[1], -1, -1)
        _normaliser(frames, answering, tokens, scale=scale, log_weight=0.0, allowed=allowed, out=out)
    whole, mass = _masses(sums)

    def maxima(groups: int) -> Tensor:
        shift = whole if groups == num_heads else whole + math.log2(num_heads // groups)
        found = torch.zeros(groups, 1 + num_frames, len(tokens), device=key.device)
        for answering, allowed in parts:
            tops = found[:, 1:] if answering is key else found[:, :1]
            descriptors = (asking, answering, asking, answering)
            _head_mean(descriptors, tokens, allowed, shift, None, tops, scale=scale, maximum=True)
        return found

    return mass, maxima(1)[0] if mean else None, maxima(num_heads) if per_head else None


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
    """Read x, y, probability and margin of the best token of every point off rows, each row visited once.

    Args:
        rows: Probabilities, or scores where `logit_scale` is given; the last axis is dense.
        slots: Rows that a point mixes; None reads every row by itself.
        weights: Of the rows that are mixed.
        cols: Columns of the token grid.
        second_softmax: As in `MatchingParams`, like the next two.
        window_radius: See there.
        window_temperature: See there.
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


def _readable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to one type, channels next to one another."""
    dtype = tensors[0].dtype
    if any(tensor.dtype != dtype for tensor in tensors):
        dtype = torch.float32
    return tuple(tensor.to(dtype) if tensor.stride(-1) == 1 else tensor.to(dtype).contiguous() for tensor in tensors)


def _tiles(tokens: Tensor) -> Tiles:
    if tokens.element_size() > 2:
        return FULL_PRECISION
    return next((tiles for channels, tiles in TILES.items() if tokens.shape[-1] <= channels), TILES[max(TILES)])


def _options(tokens: Tensor, tile: Tile) -> dict[str, Any]:
    channels = max(16, triton.next_power_of_2(tokens.shape[-1]))
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "CHANNELS": channels,
        "RAGGED": channels != tokens.shape[-1],
        "PRECISION": "ieee",
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def _normaliser(
    query: Float[Tensor, "head frame _ channel"],
    key: Float[Tensor, "head frame key_token channel"],
    rows: Int[Tensor, " query_token"] | None,
    *,
    scale: float,
    log_weight: float,
    log_weights: Float[Tensor, " head"] | None = None,
    allowed: Bool[Tensor, " key_token"] | None = None,
    out: Float[Tensor, "frame head query_token"] | None = None,
) -> Float[Tensor, "frame head query_token"]:
    num_heads, num_frames, num_queries, num_channels = query.shape
    num_queries = num_queries if rows is None else len(rows)
    if out is None:
        out = torch.empty(num_frames, num_heads, num_queries, device=query.device)
    tile = _tiles(key).normaliser
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
        **_options(key, tile),
    )
    return out


def _masses(
    sums: Float[Tensor, "part head point"],
) -> tuple[Float[Tensor, "head point"], Float[Tensor, "head part point"]]:
    """Normaliser of the whole row and the share of every part, from the parts' own normalisers."""
    num_parts, num_heads, num_points = sums.shape
    whole = torch.empty(num_heads, num_points, device=sums.device)
    mass = torch.empty(num_heads, num_parts, num_points, device=sums.device)
    block = 128
    _masses_kernel[(triton.cdiv(num_points, block), num_heads)](
        sums, whole, mass, num_heads, num_points, NUM_PARTS=num_parts, POINTS=block
    )
    return whole, mass


def _head_mean(
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
    tile = _tiles(target).mean
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
        **_options(target, tile),
    )
