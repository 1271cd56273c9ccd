"""Attention of query points over text, their own latent frame and the others; the paper's scores use it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.correspondence._backends import attention_parts
from difftrack.correspondence._matches import check_latent_frame
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import check_points, nearest_tokens
from difftrack.correspondence._scores import as_float

__all__ = [
    "AttentionRows",
    "attention_of_points",
    "attention_of_points_per_head",
    "attention_of_points_with_heads",
    "attention_rows",
]


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

    A is the model's own attention: one softmax over text and video tokens, temperature sqrt(channel).

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

    Raises:
        ValueError: `source_frame` does not exist, or a point is not finite or outside the picture.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eqs. 8 and 9.
    """
    (of_mean,) = _attention(query, key, text_key, text_mask, points_xy_token, params, source_frame, mean=True)
    return of_mean


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
    (of_heads,) = _attention(query, key, text_key, text_mask, points_xy_token, params, source_frame, per_head=True)
    return of_heads


def attention_of_points_with_heads(
    query: Float[Tensor, "head latent_frame row col channel"],
    key: Float[Tensor, "head latent_frame row col channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> tuple[AttentionRows, AttentionRows]:
    """Compute `attention_of_points` and `attention_of_points_per_head` at little more than the cost of one."""
    of_mean, of_heads = _attention(
        query, key, text_key, text_mask, points_xy_token, params, source_frame, mean=True, per_head=True
    )
    return of_mean, of_heads


def _attention(
    query: Tensor,
    key: Tensor,
    text_key: Tensor,
    text_mask: Tensor,
    points_xy_token: Tensor,
    params: MatchingParams,
    source_frame: int,
    *,
    mean: bool = False,
    per_head: bool = False,
) -> list[AttentionRows]:
    """Attention of the mean over heads, then of every head; only the requested ones."""
    rows, cols = query.shape[2:4]
    check_latent_frame(source_frame, query.shape[1])
    check_points(points_xy_token, rows=rows, cols=cols, params=params)
    tokens, slots = nearest_tokens(points_xy_token, rows=rows, cols=cols, params=params, device=key.device)
    mass, top, tops = attention_parts(
        query[:, source_frame].flatten(1, 2),
        key.flatten(2, 3),
        text_key,
        None if params.padded_text == "counted" else text_mask.to(key.device, non_blocking=True),
        tokens,
        params=params,
        mean=mean,
        per_head=per_head,
    )
    found = [] if top is None else [_of_points(top, mass.mean(dim=0), slots)]
    return found if tops is None else [*found, _of_points(tops, mass, slots)]


def _of_points(
    top: Float[Tensor, "*head part query_token"], mass: Float[Tensor, "*head part query_token"], slots: Tensor
) -> AttentionRows:
    """Give every point the values of its token."""
    both = torch.stack([top, mass]).index_select(-1, slots)
    return AttentionRows(
        text_max=both[0, ..., 0, :],
        text_mass=both[1, ..., 0, :],
        frame_max=both[0, ..., 1:, :],
        frame_mass=both[1, ..., 1:, :],
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
    """Return whole rows of head-averaged attention: first the kept text tokens, then the video's.

    Meant for pictures and tests; unlike `attention_of_points`, it ignores the memory limit.
    """
    check_latent_frame(source_frame, query.shape[1])
    check_points(points_xy_token, rows=query.shape[2], cols=query.shape[3], params=params)
    tokens, slots = nearest_tokens(
        points_xy_token, rows=query.shape[2], cols=query.shape[3], params=params, device=query.device
    )
    kept = text_key if params.padded_text == "counted" else text_key[:, text_mask]
    asking = as_float(query[:, source_frame].flatten(1, 2)[:, tokens]) / query.shape[-1] ** 0.5
    mean: Tensor | float = 0.0
    for head, answering in enumerate(key.flatten(1, 3)):
        mean = mean + (asking[head] @ torch.cat([kept[head], answering]).float().T).softmax(dim=-1)
    return (torch.as_tensor(mean) / len(key))[slots]
