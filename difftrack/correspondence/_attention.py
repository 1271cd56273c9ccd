"""Attention of query points over text, their own latent frame and the others: what the paper's scores are made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import nearest_tokens
from difftrack.correspondence._softmax import as_float

__all__ = ["AttentionRows", "attention_of_points", "attention_of_points_per_head", "attention_rows"]


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """Largest weight and total mass of the attention of query points, by where it goes.

    In one head, or in the mean over heads, the masses of a point sum to 1 over text and all latent frames.
    """

    text_max: Float[Tensor, "*head point"]
    text_mass: Float[Tensor, "*head point"]
    frame_max: Float[Tensor, "*head latent_frame point"]
    """Per latent frame; the source frame's entry is the self-frame's."""
    frame_mass: Float[Tensor, "*head latent_frame point"]


def attention_of_points(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> AttentionRows:
    """Reduce the head-averaged attention of the tokens nearest to the points.

    A is the attention of the model itself: one softmax over text and video tokens, temperature sqrt(channel).

    Args:
        query: Post-RoPE queries.
        key: Post-RoPE keys.
        text_key: Keys of the text tokens; zero text tokens where the backbone has none in this attention.
        text_mask: True for text tokens that the model's attention lets through; the others are dropped unless
            `padded_text: counted`.
        points_xy_token: Points of the source frame in token coordinates.
        params: `attention_axes`, `padded_text` and `memory_limit_mb` matter here.
        source_frame: Latent frame that the points belong to.

    Returns:
        Maxima and masses of the mean over heads (the maximum of the mean, as the paper writes it).

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eqs. 8 and 9.
    """
    _, num_latent_frames, num_rows, cols, _ = query.shape
    tokens = nearest_tokens(points_xy_token, rows=num_rows, cols=cols, params=params)
    text = _kept_text(text_key, text_mask, params)
    blocks = [
        _reduce(_attention_of_tokens(query, key, text, block, source_frame), num_latent_frames)
        for block in _token_blocks(tokens, key, text, params)
    ]
    return AttentionRows(*(torch.cat(parts, dim=-1) for parts in zip(*blocks, strict=True)))


def attention_of_points_per_head(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> AttentionRows:
    """Reduce the attention of each head alone: `attention_of_points` with a head axis in place of the mean."""
    per_head = [
        attention_of_points(
            query[head : head + 1],
            key[head : head + 1],
            text_key[head : head + 1],
            text_mask,
            points_xy_token,
            params=params,
            source_frame=source_frame,
        )
        for head in range(query.shape[0])
    ]
    return AttentionRows(
        text_max=torch.stack([rows.text_max for rows in per_head]),
        text_mass=torch.stack([rows.text_mass for rows in per_head]),
        frame_max=torch.stack([rows.frame_max for rows in per_head]),
        frame_mass=torch.stack([rows.frame_mass for rows in per_head]),
    )


def attention_rows(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> Float[Tensor, "point token"]:
    """Give the head-averaged attention rows themselves: first the kept text tokens, then the video's.

    Meant for pictures and tests; `attention_of_points` never holds the rows of all points at once.
    """
    tokens = nearest_tokens(points_xy_token, rows=query.shape[2], cols=query.shape[3], params=params)
    text, video = _attention_of_tokens(query, key, _kept_text(text_key, text_mask, params), tokens, source_frame)
    return torch.cat([text, video], dim=-1)


def _kept_text(text_key: Tensor, text_mask: Tensor, params: MatchingParams) -> Float[Tensor, "head text_token channel"]:
    return text_key if params.padded_text == "counted" else text_key[:, text_mask]


def _token_blocks(
    tokens: Int[Tensor, " point"], key: Tensor, text_key: Tensor, params: MatchingParams
) -> Iterator[Int[Tensor, " point"]]:
    """Split the query tokens so that their scores in one head and the mean over heads stay within the memory limit."""
    row_bytes = 2 * 4 * (text_key.shape[1] + key[0].numel() // key.shape[-1])
    yield from torch.split(tokens, max(1, params.memory_limit_mb * 2**20 // row_bytes))


def _attention_of_tokens(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    text_key: Float[Tensor, "head text_token channel"],
    tokens: Int[Tensor, " point"],
    source_frame: int,
) -> tuple[Float[Tensor, "point text_token"], Float[Tensor, "point video_token"]]:
    """Mean over heads of the attention of some tokens, one head at a time."""
    num_heads, num_text, num_channels = text_key.shape
    asking = as_float(query[:, source_frame].flatten(1, 2)[:, tokens]) / num_channels**0.5
    mean = asking.new_zeros(len(tokens), num_text + key[0].numel() // num_channels)
    scores = torch.empty_like(mean)
    for head in range(num_heads):
        torch.mm(asking[head], as_float(text_key[head]).T, out=scores[:, :num_text])
        torch.mm(asking[head], as_float(key[head].flatten(0, 2)).T, out=scores[:, num_text:])
        torch.softmax(scores, dim=-1, out=scores)
        mean.add_(scores)
    mean.div_(num_heads)
    return mean[:, :num_text], mean[:, num_text:]


def _reduce(
    attention: tuple[Float[Tensor, "point text_token"], Float[Tensor, "point video_token"]], num_latent_frames: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    text, video = attention
    frames = video.reshape(len(video), num_latent_frames, video.shape[1] // num_latent_frames)
    text_max = text.amax(dim=-1) if text.shape[1] else text.new_zeros(len(text))
    return text_max, text.sum(dim=-1), frames.amax(dim=-1).T, frames.sum(dim=-1).T
