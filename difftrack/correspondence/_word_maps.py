"""Attention from video tokens to text tokens: the part of the picture that a word stands for."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.correspondence._scores import as_float

__all__ = ["text_attention"]

_BLOCK_BYTES = 4_000_000
_CUDA_BLOCK_BYTES = 256_000_000


def text_attention(
    query: Float[Tensor, "head latent_frame row col channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"],
    groups: Sequence[Sequence[int]],
    *,
    key: Float[Tensor, "head key_frame key_row key_col channel"] | None = None,
) -> Float[Tensor, "head group latent_frame row col"]:
    """Sum the attention weights of every video token over groups of text tokens.

    A = softmax([q k_text^T, q k_video^T] / sqrt(channel)), the model's own attention; the map of a group g at video
    token i is sum over t in g of A[i, t]. With every text token in one group, the maps sum to the mass of the text.

    Args:
        query: Queries of the video, in the joint attention or in the cross-attention to the text.
        text_key: Keys of the text tokens in the same attention.
        text_mask: Text tokens that the model attends to; the others have weight 0.
        groups: Positions of the text tokens of each group; a token may be in several, and counts once in each.
        key: Keys of the video where text and video share one softmax; None for cross-attention, which sees text alone.

    Returns:
        Weights in [0, 1]; for cross-attention they sum to 1 over all text tokens.

    Raises:
        ValueError: a group names a text token that does not exist.

    Source:
        Tang et al. 2022, "What the DAAM" (arXiv 2210.04885), sec. 3, which sums the same weights of cross-attention;
        here they are not resized, and joint attention keeps the video's share of the softmax.
    """
    heads, *grid, channels = query.shape
    belongs = _membership(groups, text_mask).to(query.device)
    maps = query.new_empty((heads, len(groups), math.prod(grid)), dtype=torch.float32)
    limit = _CUDA_BLOCK_BYTES if query.is_cuda else _BLOCK_BYTES
    num_keys = text_key.shape[1] + (0 if key is None else math.prod(key.shape[1:4]))
    block = max(16, limit // (4 * max(num_keys, 1)))
    hidden = ~text_mask.to(query.device)
    for head in range(heads):
        asking = as_float(query[head].flatten(0, 2)) / math.sqrt(channels)
        of_text = as_float(text_key[head])
        of_video = None if key is None else as_float(key[head].flatten(0, 2))
        for start in range(0, len(asking), block):
            rows = asking[start : start + block]
            scores = (rows @ of_text.T).masked_fill_(hidden, -torch.inf)
            total = torch.logsumexp(scores, dim=1)
            if of_video is not None:
                total = torch.logaddexp(total, torch.logsumexp(rows @ of_video.T, dim=1))
            weights = (scores - total[:, None]).exp_().nan_to_num_(nan=0.0)  # no text, so nothing to attend to
            maps[head, :, start : start + block] = belongs @ weights.T
    return maps.view(heads, len(groups), *grid)


def _membership(groups: Sequence[Sequence[int]], text_mask: Tensor) -> Float[Tensor, "group text_token"]:
    belongs = torch.zeros(len(groups), len(text_mask), device=text_mask.device)
    for group, tokens in enumerate(groups):
        unknown = [token for token in tokens if not 0 <= token < len(text_mask)]
        if unknown:
            raise ValueError(f"text token {unknown[0]} does not exist; the text has {len(text_mask)} tokens")
        belongs[group, list(tokens)] = 1.0
    return belongs
