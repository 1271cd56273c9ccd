"""Results of a capture: the descriptors of one layer, split into video and text."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones._errors import CaptureError
from difftrack.backbones._params import CapturedKind
from difftrack.backbones._seam import AttentionCall
from difftrack.geometry import TokenGrid

__all__ = ["LayerDescriptors", "TextPosition", "describe_call", "describe_cross_call", "video_tokens"]

NOTHING: Mapping[str, object] = MappingProxyType({})

_MASKED = -5000.0
"""Additive masks subtract at least this from a score: their least value is -10000 (LTX, Allegro), or the dtype's least
number.
"""

TextPosition = Literal["first", "last", "none"]
"""Place of text tokens in a layer's joint sequence; "none" where text enters through cross-attention only."""


@dataclass(frozen=True, slots=True)
class LayerDescriptors:
    """Descriptors of one layer at one step, on the backbone's device, in its dtype; None for kinds not requested."""

    layer: int
    query: Float[Tensor, "head latent_frame row col channel"] | None
    key: Float[Tensor, "head latent_frame row col channel"] | None
    feature: Float[Tensor, "head latent_frame row col channel"] | None
    text_key: Float[Tensor, "head text_token channel"]
    """Keys of the text tokens in the same softmax; no tokens where the attention is over video alone. With
    `cross_query`, the keys of that cross-attention.
    """
    text_mask: Bool[Tensor, " text_token"]
    """True where the model's attention attends to the text token, False on padding that it masks."""
    value: Float[Tensor, "head latent_frame row col channel"] | None = None
    query_pre_rotary: Float[Tensor, "head latent_frame row col channel"] | None = None
    """Query before rotary positions turned it, after the model's normalisation."""
    key_pre_rotary: Float[Tensor, "head latent_frame row col channel"] | None = None
    cross_query: Float[Tensor, "head latent_frame row col channel"] | None = None
    """Queries of the cross-attention to the text."""


def describe_call(
    call: AttentionCall,
    output: Float[Tensor, "batch head token channel"] | None,
    *,
    grid: TokenGrid,
    num_text_tokens: int,
    text_position: TextPosition,
    kinds: tuple[CapturedKind, ...],
    unrotated: Mapping[str, object] = NOTHING,
) -> LayerDescriptors:
    """Split one attention call into the video's token grid and the text.

    Args:
        call: An attention call of a batch of one.
        output: Its output, needed only for the kind "feature"; None if that is another hidden state.
        grid: Layout of the video tokens.
        num_text_tokens: Text tokens in the sequence.
        text_position: Their place in the sequence.
        kinds: Kinds to keep.
        unrotated: `query_pre_rotary` and `key_pre_rotary`, the outputs of the model's modules.

    Returns:
        Views of the call's tensors, nothing copied.

    Raises:
        CaptureError: the sequence is not one clip's video tokens plus the text tokens.
    """
    batch, _, num_tokens, _ = call.query.shape
    if batch != 1 or call.key.shape[2] != num_tokens or num_tokens != grid.num_tokens + num_text_tokens:
        raise CaptureError(
            f"layer {call.layer} attended with {batch} x {num_tokens} queries to {call.key.shape[2]} keys; one clip "
            f"has {grid.num_tokens} video and {num_text_tokens} text tokens. Is the sequence split over devices, or "
            f"are tokens merged or dropped?"
        )
    first_video = num_text_tokens if text_position == "first" else 0
    video = slice(first_video, first_video + grid.num_tokens)
    text = slice(0, num_text_tokens) if text_position == "first" else slice(grid.num_tokens, None)
    num_heads, num_channels = call.query.shape[1], call.query.shape[3]
    shape = (num_heads, grid.num_latent_frames, grid.rows, grid.cols, -1)

    def before(kind: CapturedKind) -> Tensor | None:
        if kind not in kinds:
            return None
        found = video_tokens(unrotated.get(kind), grid, num_text_tokens, text_position, num_heads, num_channels)
        if found is None:
            raise CaptureError(
                f"layer {call.layer}: {kind} cannot be separated in the output of its module; are projections fused? "
                "call "
                f"transformer.unfuse_qkv_projections(), or remove {kind} from the descriptors"
            )
        return found

    def on_grid(tokens: Tensor | None) -> Tensor | None:
        return None if tokens is None else tokens[0, :, video].view(shape)

    return LayerDescriptors(
        layer=call.layer,
        query=on_grid(call.query) if "query" in kinds else None,
        key=on_grid(call.key) if "key" in kinds else None,
        feature=on_grid(output) if "feature" in kinds else None,
        text_key=call.key[0, :, text],
        text_mask=_attended(call, video_row=first_video)[text],
        value=on_grid(call.value) if "value" in kinds else None,
        query_pre_rotary=before("query_pre_rotary"),
        key_pre_rotary=before("key_pre_rotary"),
    )


def describe_cross_call(
    call: AttentionCall, *, grid: TokenGrid, num_text_tokens: int
) -> tuple[
    Float[Tensor, "head latent_frame row col channel"],
    Float[Tensor, "head text_token channel"],
    Bool[Tensor, " text_token"],
]:
    """Arrange the queries of a cross-attention call on the video's token grid.

    Args:
        call: Call with a batch of one, from the video's tokens to the text's.
        grid: Layout of the video tokens.
        num_text_tokens: Text tokens that it reads.

    Returns:
        Queries, the text's keys, and the mask of attended text tokens; views, nothing is copied.

    Raises:
        CaptureError: the call is not from one clip's video tokens to the text tokens.
    """
    batch, heads, num_tokens, _ = call.query.shape
    num_keys = call.key.shape[2]
    if batch != 1 or num_tokens != grid.num_tokens or num_keys != num_text_tokens:
        raise CaptureError(
            f"the cross-attention of layer {call.layer} attended with {batch} x {num_tokens} queries to {num_keys} "
            f"keys; one clip has {grid.num_tokens} video and {num_text_tokens} text tokens"
        )
    shape = (heads, grid.num_latent_frames, grid.rows, grid.cols, -1)
    return call.query[0].view(shape), call.key[0], _attended(call, video_row=0)


def video_tokens(
    output: object,
    grid: TokenGrid,
    num_text_tokens: int,
    text_position: TextPosition,
    num_heads: int,
    num_channels: int,
) -> Float[Tensor, "head latent_frame row col channel"] | None:
    """Find the video's tokens in a module's input or output, split into heads.

    Args:
        output: A tensor of a batch of one, or several of them: tokens, alone or with the text's, by all heads'
            channels; or with an axis of heads before or after that of tokens.
        grid: Layout of the video tokens.
        num_text_tokens: Text tokens in the attention's sequence.
        text_position: Their place in the sequence.
        num_heads: Heads of the attention.
        num_channels: Channels of one head.

    Returns:
        The tokens of the first tensor that has them, or None.
    """
    for tensor in output if isinstance(output, tuple | list) else (output,):
        if not isinstance(tensor, Tensor) or tensor.shape[-1] not in (num_channels, num_heads * num_channels):
            continue
        num_tokens = tensor.numel() // (num_heads * num_channels)
        if num_tokens not in (grid.num_tokens, grid.num_tokens + num_text_tokens):
            continue
        if tensor.shape[-1] == num_heads * num_channels and num_heads > 1:
            tokens = tensor.reshape(num_tokens, num_heads, num_channels).transpose(0, 1)
        elif tensor.ndim == 4 and tensor.shape[1:3] == (num_tokens, num_heads):
            tokens = tensor[0].transpose(0, 1)
        else:
            tokens = tensor.reshape(num_heads, num_tokens, num_channels)
        first = num_text_tokens if text_position == "first" and num_tokens > grid.num_tokens else 0
        video = tokens[:, first : first + grid.num_tokens]
        return video.reshape(num_heads, grid.num_latent_frames, grid.rows, grid.cols, num_channels)
    return None


def _attended(call: AttentionCall, *, video_row: int) -> Bool[Tensor, " token"]:
    """Return which keys a video token may attend to, from the model's own mask."""
    num_keys = call.key.shape[2]
    if call.mask is None:
        return torch.ones(num_keys, dtype=torch.bool, device=call.key.device)
    row = call.mask[0, 0, min(video_row, call.mask.shape[2] - 1)].expand(num_keys)
    return row if row.dtype == torch.bool else row > _MASKED
