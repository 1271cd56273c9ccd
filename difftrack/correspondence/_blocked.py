"""Matching and attention by blocked matrix products: scores stay in a core's cache, one head at a time.

Softmaxes use powers of two, which are three times as fast as exp on a CPU. The pass for each row's maximum is skipped
where the norms of the descriptors rule out overflow.
"""

import math
import platform
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["as_float", "attention_parts_blocked", "back_sums_blocked", "pair_rows_blocked", "product"]

_BLOCK_BYTES = 1_600_000
"""Size of one block of scores: it stays in a core's cache during a matrix product, a power and two sums."""

_CUDA_BLOCK_BYTES = 32_000_000

_MIN_BLOCK_ROWS = 64
"""With fewer rows, a matrix product spends its time on packing the keys."""

_FEW_ROWS = 16
"""Up to this number of query tokens, reading the keys is all the work: they are read once, one head at a time."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_ON_X86 = platform.machine() in ("x86_64", "AMD64")
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _HAS_ONEDNN and _ON_X86 else None

_LARGEST_EXPONENT = 100.0
"""Float32 holds powers of two of scores within +-100, and their sums, with full precision."""


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
    scale *= math.log2(math.e)
    weights = [1.0 if per_head else 1 / num_heads] * num_heads if head_weights is None else head_weights.tolist()
    weights = [weight / 2 for weight in weights] if both else weights
    target_frames = range(targets.start, targets.stop)
    groups = num_heads if per_head else 1
    rows = torch.zeros(groups, len(target_frames), len(tokens), num_tokens, device=query.device)
    source_query = as_float(query[:, source_frame].index_select(1, tokens)) * scale
    if not rows.is_cuda and 0 < len(tokens) <= _FEW_ROWS and (not both or back_sums is not None):
        _add_few(rows, source_query, key, target_frames, weights)
        if both:
            asked = as_float(key[:, source_frame].index_select(1, tokens)) * scale
            _add_few(rows, asked, query, target_frames, weights, back_sums)
        return rows
    order = _first(tokens, num_tokens)
    source_key = as_float(key[:, source_frame].index_select(1, order)) if both else None
    block = _block_rows(num_tokens, rows.device)
    for at, frame in enumerate(target_frames):
        target_key = as_float(key[:, frame])
        bounded = _bounded(source_query, target_key)
        for start in range(0, len(tokens), block):
            for head, weight in enumerate(weights):
                out = rows[head if per_head else 0, at, start : start + block]
                asking = source_query[head, start : start + block]
                powers = _powers(asking, target_key[head], dim=1, bounded=bounded)
                out.addcmul_(powers, powers.sum(dim=1, keepdim=True).reciprocal_().mul_(weight))
        if source_key is None:
            continue
        target_query = as_float(query[:, frame]) * scale
        bounded = _bounded(source_key, target_query)
        for start in range(0, num_tokens, block):
            for head, weight in enumerate(weights):
                out = rows[head if per_head else 0, at, :, start : start + block]
                asking = target_query[head, start : start + block]
                powers = _powers(source_key[head], asking, dim=0, bounded=bounded)
                out.addcmul_(powers[: len(tokens)], powers.sum(dim=0).reciprocal_().mul_(weight))
    return rows


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
    source_key = as_float(key[:, source_frame]) * (scale * math.log2(math.e))
    sums = source_key.new_empty(num_heads, num_frames, num_tokens)
    block = _block_rows(num_tokens, sums.device)
    for frame in range(num_frames):
        target_query = as_float(query[:, frame])
        bounded = _bounded(source_key, target_query)
        for start in range(0, num_tokens, block):
            for head in range(num_heads):
                scores = product(target_query[head, start : start + block], source_key[head])
                largest = None if bounded else scores.amax(dim=1)
                total = (scores if largest is None else scores.sub_(largest[:, None])).exp2_().sum(dim=1).log2_()
                sums[head, frame, start : start + block] = total if largest is None else total.add_(largest)
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
        _attention_parts(query, key, text_key, some, mean=mean, per_head=per_head) for some in torch.split(tokens, most)
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
    scale = math.log2(math.e) / math.sqrt(num_channels)
    asking = as_float(query.index_select(1, tokens)) * scale
    ends = [num_text + part * tokens_per_frame for part in range(1 + num_frames)]
    spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    powers = asking.new_empty(num_points, ends[-1])
    total = torch.zeros_like(powers) if mean else powers
    sums = asking.new_zeros(num_heads, 1 + num_frames, num_points)
    tops = torch.zeros_like(sums)
    for head in range(num_heads):
        answering = [as_float(text_key[head]), *as_float(key[head])]
        bounded = all(_bounded(asking[head], keys) for keys in answering if len(keys))
        if not bounded:
            for keys, span in zip(answering, spans, strict=True):
                powers[:, span] = asking[head] @ keys.T
            powers.sub_(powers.amax(dim=1, keepdim=True))
        for part, (keys, span) in enumerate(zip(answering, spans, strict=True)):
            if not len(keys):
                continue
            if bounded:
                torch.mm(asking[head], keys.T, out=powers[:, span])
            powers[:, span].exp2_()
            torch.sum(powers[:, span], dim=1, out=sums[head, part])
            if per_head:
                torch.amax(powers[:, span], dim=1, out=tops[head, part])
        share = sums[head].sum(dim=0).reciprocal_()
        sums[head] *= share
        tops[head] *= share
        if mean:
            total.addcmul_(powers, share[:, None])
    of_mean = torch.zeros_like(tops[0])
    for part, span in enumerate(spans):
        if mean and span.stop > span.start:
            torch.amax(total[:, span], dim=1, out=of_mean[part])
    return sums, of_mean.div_(num_heads), tops


def as_float(tokens: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
    """Copy tokens densely in float32: heads that are views into wider rows halve the speed of matrix products."""
    return tokens.float().contiguous()


def product(
    first: Float[Tensor, "first channel"], second: Float[Tensor, "second channel"]
) -> Float[Tensor, "first second"]:
    """Multiply every row of one dense float32 matrix with every row of another.

    On x86 CPUs oneDNN does it, which is up to 1.6 times as fast as the default library on one maker's CPUs.
    """
    if _ONEDNN_LINEAR is None or first.is_cuda or not len(first) or not len(second):
        return first @ second.T
    found: Tensor = _ONEDNN_LINEAR(first, second, None, "none", [], "")
    return found


def _powers(
    first: Float[Tensor, "first channel"],
    second: Float[Tensor, "second channel"],
    *,
    dim: int,
    bounded: bool,
) -> Float[Tensor, "first second"]:
    """Two to the power of all products, divided so that the largest along `dim` fits in float32."""
    scores = product(first, second)
    if not bounded:
        scores.sub_(scores.amax(dim=dim, keepdim=True))
    return scores.exp2_()


def _bounded(first: Float[Tensor, "*head _ channel"], second: Float[Tensor, "*head _ channel"]) -> bool:
    """Return whether all products of rows of one with rows of the other are small (Cauchy-Schwarz)."""
    if not first.numel() or not second.numel():
        return True
    longest = [torch.linalg.vector_norm(rows, dim=-1).amax(dim=-1) for rows in (first, second)]
    return bool((longest[0] * longest[1]).amax() < _LARGEST_EXPONENT)


def _first(tokens: Int[Tensor, " query_token"], num_tokens: int) -> Int[Tensor, " token"]:
    """Order all tokens so that these come first."""
    others = torch.ones(num_tokens, dtype=torch.bool, device=tokens.device)
    others[tokens] = False
    return torch.cat([tokens, others.nonzero()[:, 0]])


def _block_rows(num_columns: int, device: torch.device) -> int:
    """How many rows of float32 scores to hold at once: what a CPU core's cache takes, or what keeps a GPU busy."""
    limit = _BLOCK_BYTES if device.type == "cpu" else _CUDA_BLOCK_BYTES
    return max(_MIN_BLOCK_ROWS, limit // (4 * num_columns))
