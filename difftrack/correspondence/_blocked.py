"""Matching and attention by blocked matrix products: scores stay in a core's cache, one head at a time."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence._scores import LOG2_E, as_float, exponential_of, product_into

__all__ = ["attention_parts_blocked", "back_sums_blocked", "pair_rows_blocked"]

_BLOCK_BYTES = 1_600_000
"""Size of one block of scores: it stays in a core's cache during a product, an exponential and two sums."""

_CUDA_BLOCK_BYTES = 32_000_000

_BLOCK_STEP = 64
"""The width of blocks is a multiple of this: narrower matrix products spend their time on packing."""

_FEW_ROWS = 16
"""Up to this number of query tokens, reading the keys is all the work: they are read once, one head at a time."""


def pair_rows_blocked(
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
    back_sums: Float[Tensor, "head target_frame token"] | None = None,
) -> Float[Tensor, "group target_frame query_token token"]:
    """Compute `pair_rows` block by block of query tokens."""
    num_heads, _, num_tokens, _ = query.shape
    query, key = query.detach(), key.detach()
    weights = [1.0 if per_head else 1 / num_heads] * num_heads if head_weights is None else head_weights.tolist()
    weights = [weight / 2 for weight in weights] if both else weights
    target_frames = range(targets.start, targets.stop)
    groups = num_heads if per_head else 1
    rows = torch.zeros(groups, len(target_frames), len(tokens), num_tokens, device=query.device)
    source_query = as_float(query[:, source_frame].index_select(1, tokens))
    if not rows.is_cuda and 0 < len(tokens) <= _FEW_ROWS and (not both or back_sums is not None):
        _add_few(rows, source_query * (scale * LOG2_E), key, target_frames, weights)
        if both:
            asked = as_float(key[:, source_frame].index_select(1, tokens)) * (scale * LOG2_E)
            _add_few(rows, asked, query, target_frames, weights, back_sums)
        return rows
    order = _first(tokens, num_tokens)
    source_key = as_float(key[:, source_frame].index_select(1, order)) if both else None
    for at, frame in enumerate(target_frames):
        _add_softmaxes(rows[:, at], source_query, as_float(key[:, frame]), weights, scale, dim=1)
        if source_key is not None:
            _add_softmaxes(rows[:, at], source_key, as_float(query[:, frame]), weights, scale, dim=0)
    return rows


def _add_softmaxes(
    rows: Float[Tensor, "group query_token target_token"],
    source: Float[Tensor, "head source_token channel"],
    target: Float[Tensor, "head target_token channel"],
    weights: Sequence[float],
    scale: float,
    *,
    dim: int,
) -> None:
    """Add softmaxes of the scores of source tokens, the query tokens first, and target tokens.

    Args:
        rows: Get them: a group all heads, or each head its own.
        source: One side of the scores.
        target: The other side.
        weights: Of the heads.
        scale: Of the scores.
        dim: Along which they sum to 1; the other is cut into blocks.
    """
    exponential = exponential_of(source, target, scale=scale)
    cut, whole = (source, target) if dim else (target, source)
    cut = cut * exponential.factor
    width = _block_width(whole.shape[1], rows.device)
    for some, out in zip(torch.split(cut, width, dim=1), torch.split(rows, width, dim=2 - dim), strict=True):
        first, second = (some, whole) if dim else (whole, some)
        scratch = some.new_empty(first.shape[1], second.shape[1])
        mean = out.new_zeros(out.shape[1:])  # dense, unlike a block of columns
        for head, weight in enumerate(weights):
            powers = product_into(scratch, first[head], second[head])
            exponential.raise_(powers, dim)
            share = powers.sum(dim=dim, keepdim=True).reciprocal_().mul_(weight)
            (mean if len(out) == 1 else out[head]).addcmul_(powers[: len(mean)], share)
        if len(out) == 1:
            out[0].add_(mean)


def _add_few(
    rows: Float[Tensor, "group target_frame query_token token"],
    asking: Float[Tensor, "head query_token channel"],
    answering: Float[Tensor, "head latent_frame token channel"],
    frames: range,
    weights: Sequence[float],
    log_sums: Float[Tensor, "head target_frame token"] | None = None,
) -> None:
    """Add the softmax of a few tokens' scores, scaled for powers of two, over all tokens of each frame.

    Args:
        rows: Result; the softmax is added to it.
        asking: One side of the scores, already scaled.
        answering: The other side.
        frames: Latent frames of `rows`.
        weights: Weight of each head.
        log_sums: Normalisers as log2; by default the sum of each row.
    """
    dense = asking.new_empty(answering.shape[2:])  # one head of one frame fits in a core's cache
    for at, frame in enumerate(frames):
        for head, weight in enumerate(weights):
            out = rows[head if len(rows) > 1 else 0, at]
            scores = asking[head] @ dense.copy_(answering[head, frame]).T
            if log_sums is not None:
                out.add_(scores.sub_(log_sums[head, at]).exp2_(), alpha=weight)
                continue
            powers = scores.sub_(scores.amax(dim=1, keepdim=True)).exp2_()
            out.addcmul_(powers, powers.sum(dim=1, keepdim=True).reciprocal_().mul_(weight))


def back_sums_blocked(
    query: Float[Tensor, "head latent_frame token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    *,
    source_frame: int,
    scale: float,
) -> Float[Tensor, "head latent_frame token"]:
    """Compute `back_sums` block by block of target tokens."""
    num_heads, num_frames, num_tokens, _ = query.shape
    query, source_key = query.detach(), as_float(key[:, source_frame].detach())
    sums = source_key.new_empty(num_heads, num_frames, num_tokens)
    width = _block_width(num_tokens, sums.device)
    for frame in range(num_frames):
        target_query = as_float(query[:, frame])
        exponential = exponential_of(source_key, target_query, scale=scale)
        answering = source_key * exponential.factor
        for start in range(0, num_tokens, width):
            block = target_query[:, start : start + width]
            scratch = block.new_empty(num_tokens, block.shape[1])
            for head in range(num_heads):
                powers = product_into(scratch, answering[head], block[head])
                largest = exponential.raise_(powers, 0)
                total = powers.sum(dim=0).log2_()
                sums[head, frame, start : start + width] = total if largest is None else total.add_(largest[0])
    return sums


def attention_parts_blocked(
    query: Float[Tensor, "head token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"] | None,
    tokens: Int[Tensor, " point"],
    *,
    mean: bool,
    per_head: bool,
    memory_limit_mb: int,
) -> tuple[
    Float[Tensor, "head part point"], Float[Tensor, "part point"] | None, Float[Tensor, "head part point"] | None
]:
    """Compute `attention_parts` one head at a time, for as many points at once as the memory limit allows."""
    text_key = text_key if text_mask is None else text_key[:, text_mask]
    num_keys = text_key.shape[1] + key.shape[1] * key.shape[2]
    most = max(1, memory_limit_mb * 2**20 // (2 * 4 * num_keys))
    blocks = [
        _attention_parts(query.detach(), key.detach(), text_key.detach(), some, mean=mean, per_head=per_head)
        for some in torch.split(tokens, most)
    ]
    mass, of_mean, of_heads = zip(*blocks, strict=True)
    return (
        torch.cat(mass, dim=-1),
        torch.cat(of_mean, dim=-1) if mean else None,
        (torch.cat(of_heads, dim=-1) if per_head else None),
    )


def _attention_parts(
    query: Tensor, key: Tensor, text_key: Tensor, tokens: Tensor, *, mean: bool, per_head: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_heads, num_frames, tokens_per_frame, num_channels = key.shape
    num_text, num_points = text_key.shape[1], len(tokens)
    asking = as_float(query.index_select(1, tokens))
    ends = [num_text + part * tokens_per_frame for part in range(1 + num_frames)]
    spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    powers = asking.new_empty(ends[-1], num_points)
    total = torch.zeros_like(powers) if mean else powers
    sums = asking.new_zeros(num_heads, 1 + num_frames, num_points)
    tops = torch.zeros_like(sums)
    for head in range(num_heads):
        answering = torch.cat([as_float(text_key[head]), as_float(key[head]).flatten(0, 1)])
        exponential = exponential_of(asking[head], answering, scale=1 / math.sqrt(num_channels))
        asked = asking[head] * exponential.factor
        if not exponential.bounded:
            torch.mm(answering, asked.T, out=powers)
            exponential.raise_(powers, 0)
        for part, span in enumerate(spans):
            if span.stop == span.start:
                continue
            if exponential.bounded:
                torch.mm(answering[span], asked.T, out=powers[span])
                exponential.raise_(powers[span], 0)
            torch.sum(powers[span], dim=0, out=sums[head, part])
            if per_head:
                torch.amax(powers[span], dim=0, out=tops[head, part])
        share = sums[head].sum(dim=0).reciprocal_()
        sums[head] *= share
        tops[head] *= share
        if mean:
            total.addcmul_(powers, share)
    of_mean = torch.zeros_like(tops[0])
    for part, span in enumerate(spans):
        if mean and span.stop > span.start:
            torch.amax(total[span], dim=0, out=of_mean[part])
    return sums, of_mean.div_(num_heads), tops


def _first(tokens: Int[Tensor, " query_token"], num_tokens: int) -> Int[Tensor, " token"]:
    """Order all tokens so that these come first."""
    others = torch.ones(num_tokens, dtype=torch.bool, device=tokens.device)
    others[tokens] = False
    return torch.cat([tokens, others.nonzero()[:, 0]])


def _block_width(num_answering: int, device: torch.device) -> int:
    """How many columns of float32 scores to hold at once: what a CPU core's cache takes, or what keeps a GPU busy."""
    limit = _BLOCK_BYTES if device.type == "cpu" else _CUDA_BLOCK_BYTES
    return max(1, limit // (4 * num_answering * _BLOCK_STEP)) * _BLOCK_STEP
