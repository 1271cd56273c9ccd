"""Results of a capture: the descriptors of one layer, split into video and text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones._errors import CaptureError
from difftrack.backbones._params import CapturedKind
from difftrack.backbones._seam import AttentionCall
from difftrack.geometry import TokenGrid

__all__ = [
    "HistoryDescriptors",
    "LayerDescriptors",
    "SequencePart",
    "TextPosition",
    "describe_call",
    "describe_cross_call",
    "tokens_of_clip",
    "video_tokens",
]

NOTHING: Mapping[str, object] = MappingProxyType({})

_MASKED = -5000.0
"""Additive masks subtract at least this from a score: their least value is -10000 (LTX, Allegro), or the dtype's least
number.
"""

TextPosition = Literal["first", "last", "none"]
"""Place of text tokens in a layer's joint sequence; "none" where text enters through cross-attention only."""


@dataclass(frozen=True, slots=True)
class SequencePart:
    """Token frames that follow one another in an attention's sequence: frames of the clip, or of its history."""

    name: str | None
    """Name of frames of history, which are not frames of the clip; None for frames of the clip."""
    num_latent_frames: int
    rows: int
    cols: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all its frames."""
        return self.num_latent_frames * self.rows * self.cols


@dataclass(frozen=True, slots=True)
class HistoryDescriptors:
    """Descriptors of frames that came before the clip and take part in its attention; their tokens may be coarser."""

    query: Float[Tensor, "head latent_frame row col channel"]
    key: Float[Tensor, "head latent_frame row col channel"]


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
    history: Mapping[str, HistoryDescriptors] = field(default_factory=dict)
    """Frames of history in the same sequence, by name; none where a model has no history."""


def describe_call(
    call: AttentionCall,
    output: Float[Tensor, "batch head token channel"] | None,
    *,
    grid: TokenGrid,
    num_text_tokens: int,
    text_position: TextPosition,
    kinds: tuple[CapturedKind, ...],
    unrotated: Mapping[str, object] = NOTHING,
    parts: Sequence[SequencePart] = (),
) -> LayerDescriptors:
    """Split one attention call into the video's token grid, the text, and the history.

    Args:
        call: An attention call of a batch of one.
        output: Its output, needed only for the kind "feature"; None if that is another hidden state.
        grid: Layout of the video tokens.
        num_text_tokens: Text tokens in the sequence.
        text_position: Their place in the sequence.
        kinds: Kinds to keep.
        unrotated: `query_pre_rotary` and `key_pre_rotary`, the outputs of the model's modules.
        parts: What the sequence consists of beside the text, in order; nothing for the clip alone.

    Returns:
        Views of the call's tensors, nothing copied but where frames of the clip are apart in the sequence.

    Raises:
        CaptureError: the sequence is not one clip's video tokens plus the text tokens.
    """
    batch, _, num_tokens, _ = call.query.shape
    parts = tuple(parts) or (_whole(grid),)
    num_history = sum(part.num_tokens for part in parts) - grid.num_tokens
    if batch != 1 or call.key.shape[2] != num_tokens or num_tokens != grid.num_tokens + num_history + num_text_tokens:
        beside = f", {num_history} of history" if num_history else ""
        raise CaptureError(
            f"layer {call.layer} attended with {batch} x {num_tokens} queries to {call.key.shape[2]} keys; one clip "
            f"has {grid.num_tokens} video{beside} and {num_text_tokens} text tokens. Is the sequence split over "
            f"devices, or are tokens merged or dropped?"
        )
    first = num_text_tokens if text_position == "first" else 0
    text = slice(0, num_text_tokens) if text_position == "first" else slice(grid.num_tokens + num_history, None)
    num_heads, num_channels = call.query.shape[1], call.query.shape[3]
    shape = (num_heads, grid.num_latent_frames, grid.rows, grid.cols, -1)

    def before(kind: CapturedKind) -> Tensor | None:
        if kind not in kinds:
            return None
        found = video_tokens(unrotated.get(kind), grid, num_text_tokens, text_position, num_heads, num_channels, parts)
        if found is None:
            raise CaptureError(
                f"layer {call.layer}: {kind} cannot be separated in the output of its module; are projections fused? "
                "call "
                f"transformer.unfuse_qkv_projections(), or remove {kind} from the descriptors"
            )
        return found

    def on_grid(tokens: Tensor | None) -> Tensor | None:
        return None if tokens is None else tokens_of_clip(tokens[0], parts, first).view(shape)

    return LayerDescriptors(
        layer=call.layer,
        query=on_grid(call.query) if "query" in kinds else None,
        key=on_grid(call.key) if "key" in kinds else None,
        feature=on_grid(output) if "feature" in kinds else None,
        text_key=call.key[0, :, text],
        text_mask=_attended(call, video_row=first)[text],
        value=on_grid(call.value) if "value" in kinds else None,
        query_pre_rotary=before("query_pre_rotary"),
        key_pre_rotary=before("key_pre_rotary"),
        history={
            part.name: HistoryDescriptors(*(_on_part(tokens[0, :, where], part) for tokens in (call.query, call.key)))
            for part, where in _places(parts, first)
            if part.name is not None
        },
    )


def tokens_of_clip(
    tokens: Float[Tensor, "head token channel"], parts: Sequence[SequencePart], first: int
) -> Float[Tensor, "head video_token channel"]:
    """The tokens of the clip's own frames, in order; a view where they stand together.

    Args:
        tokens: Of an attention's whole sequence.
        parts: What stands in it, from `first` on.
        first: Tokens of text in front.
    """
    own = [tokens[:, where] for part, where in _places(parts, first) if part.name is None]
    return own[0] if len(own) == 1 else torch.cat(own, dim=1)


def _places(parts: Sequence[SequencePart], first: int) -> Iterator[tuple[SequencePart, slice]]:
    for part in parts:
        yield part, slice(first, first + part.num_tokens)
        first += part.num_tokens


def _on_part(
    tokens: Float[Tensor, "head token channel"], part: SequencePart
) -> Float[Tensor, "head latent_frame row col channel"]:
    return tokens.view(len(tokens), part.num_latent_frames, part.rows, part.cols, -1)


def _whole(grid: TokenGrid) -> SequencePart:
    return SequencePart(None, grid.num_latent_frames, grid.rows, grid.cols)


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
    parts: Sequence[SequencePart] = (),
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
        parts: As in `describe_call`.

    Returns:
        The tokens of the first tensor that has them, or None.
    """
    parts = tuple(parts) or (_whole(grid),)
    num_beside_text = sum(part.num_tokens for part in parts)
    for tensor in output if isinstance(output, tuple | list) else (output,):
        if not isinstance(tensor, Tensor) or tensor.shape[-1] not in (num_channels, num_heads * num_channels):
            continue
        num_tokens = tensor.numel() // (num_heads * num_channels)
        if num_tokens not in (num_beside_text, num_beside_text + num_text_tokens):
            continue
        if tensor.shape[-1] == num_heads * num_channels and num_heads > 1:
            tokens = tensor.reshape(num_tokens, num_heads, num_channels).transpose(0, 1)
        elif tensor.ndim == 4 and tensor.shape[1:3] == (num_tokens, num_heads):
            tokens = tensor[0].transpose(0, 1)
        else:
            tokens = tensor.reshape(num_heads, num_tokens, num_channels)
        first = num_text_tokens if text_position == "first" and num_tokens > num_beside_text else 0
        video = tokens_of_clip(tokens, parts, first)
        return video.reshape(num_heads, grid.num_latent_frames, grid.rows, grid.cols, num_channels)
    return None


def _attended(call: AttentionCall, *, video_row: int) -> Bool[Tensor, " token"]:
    """Return which keys a video token may attend to, from the model's own mask."""
    num_keys = call.key.shape[2]
    if call.mask is None:
        return torch.ones(num_keys, dtype=torch.bool, device=call.key.device)
    row = call.mask[0, 0, min(video_row, call.mask.shape[2] - 1)].expand(num_keys)
    return row if row.dtype == torch.bool else row > _MASKED
