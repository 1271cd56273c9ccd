"""The model's own attention, part by part of its keys."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence.kernels._head_mean import fill_head_mean
from difftrack.correspondence.kernels._normaliser import row_normalisers
from difftrack.correspondence.kernels._part_masses import part_masses
from difftrack.correspondence.kernels._tiles import readable

__all__ = ["attention_parts_triton"]


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

    One pass computes the normaliser of every (frame, head, point), which gives the masses and the whole row's
    normaliser; another computes the largest value of every frame.
    """
    query, key, text_key = readable(query, key, text_key)
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
        row_normalisers(asking, answering, tokens, scale=scale, log_weight=0.0, allowed=allowed, out=out)
    whole, mass = part_masses(sums)

    def maxima(groups: int) -> Tensor:
        shift = whole if groups == num_heads else whole + math.log2(num_heads // groups)
        found = torch.zeros(groups, 1 + num_frames, len(tokens), device=key.device)
        for answering, allowed in parts:
            tops = found[:, 1:] if answering is key else found[:, :1]
            descriptors = (asking, answering, asking, answering)
            fill_head_mean(descriptors, tokens, allowed, shift, None, tops, scale=scale, maximum=True)
        return found

    return mass, maxima(1)[0] if mean else None, maxima(num_heads) if per_head else None
