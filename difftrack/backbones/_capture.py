"""One forward of a transformer, tapped at the wanted layers and cut off after the last of them."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from difftrack.backbones._descriptors import LayerDescriptors, TextPosition, describe_call, video_tokens
from difftrack.backbones._errors import CaptureError
from difftrack.backbones._params import CapturedKind
from difftrack.backbones._seam import AttentionCall, intercept
from difftrack.backbones._taps import FEATURE, NO_TAPS, UNROTATED, Taps
from difftrack.geometry import TokenGrid

__all__ = ["capture_layers"]


class _ForwardDone(Exception):
    """Leaves a forward early."""


def capture_layers(
    transformer: nn.Module,
    modules: Mapping[int, nn.Module],
    forward: Callable[[], Any],
    sink: Callable[[LayerDescriptors], None],
    *,
    grid: TokenGrid,
    text_mask: Bool[Tensor, " text_token"],
    text_position: TextPosition,
    kinds: tuple[CapturedKind, ...],
    taps: Taps = NO_TAPS,
) -> None:
    """Run `forward` until the last module's attention, and hand over each module's descriptors when it attends.

    Args:
        transformer: Asked, when the capture fails, for likely causes.
        modules: Attention module of each wanted layer.
        forward: Runs the transformer once on a batch of one.
        sink: Called once for each module, inside the forward: what it does not keep is let go of before the next layer.
        grid: Layout of the video tokens.
        text_mask: Text tokens in the sequence; True where the model is expected to attend to them.
        text_position: Where they stand.
        kinds: Descriptors to keep.
        taps: Modules whose inputs or outputs are kept, too.

    Raises:
        CaptureError: a cache is on, a module's attention was not seen exactly once, or its sequence or its text mask is
            not the one expected.
    """
    if getattr(transformer, "is_cache_enabled", False):
        cache = type(getattr(transformer, "_cache_config", None)).__name__.removesuffix("Config")
        raise CaptureError(
            f"a cache hook ({cache}) serves layers from other steps, and a step that is skipped has nothing to "
            f"capture: call transformer.disable_cache() first"
        )
    last_layer = max(modules)
    seen: set[int] = set()
    held: dict[tuple[int, str], Any] = {}
    waiting: dict[int, LayerDescriptors] = {}
    of_heads = "feature" in kinds and not taps.features

    def hand_over(record: LayerDescriptors) -> None:
        sink(record)
        if record.layer == last_layer:
            raise _ForwardDone

    def with_feature(record: LayerDescriptors, output: object) -> LayerDescriptors:
        heads, channels = record.text_key.shape[0], record.text_key.shape[-1]
        feature = video_tokens(output, grid, len(text_mask), text_position, heads, channels)
        if feature is None:
            raise CaptureError(
                f"layer {record.layer}: this hidden state has no {grid.num_tokens} video tokens of {heads} x "
                f"{channels} channels; choose another feature, such as heads"
            )
        return replace(record, feature=feature)

    def heard(layer: int, name: str, output: object) -> None:
        """Keep what comes before the attention; a feature that comes after it completes its layer."""
        if name == FEATURE and layer in waiting:
            hand_over(with_feature(waiting.pop(layer), output))
        else:
            held[layer, name] = output

    def attend(call: AttentionCall) -> Tensor:
        if call.layer in seen:
            raise CaptureError(
                f"layer {call.layer} attended more than once in one forward; gradient checkpointing "
                f"(transformer.disable_gradient_checkpointing()) or a hook runs it again"
            )
        comes_later = bool(taps.features) and (call.layer, FEATURE) not in held
        output = call.run() if call.layer != last_layer or of_heads or comes_later else None
        record = describe_call(
            call,
            output if of_heads else None,
            grid=grid,
            num_text_tokens=len(text_mask),
            text_position=text_position,
            kinds=kinds,
            unrotated={name: held.pop((call.layer, name), None) for name in UNROTATED},
        )
        _check_text_mask(record, text_mask)
        seen.add(call.layer)
        if comes_later:
            waiting[call.layer] = record
        else:
            hand_over(with_feature(record, held.pop((call.layer, FEATURE))) if taps.features else record)
        return call.run() if output is None else output

    with torch.no_grad(), taps.listen(heard), intercept(modules, attend), suppress(_ForwardDone):
        forward()
    if waiting:
        raise CaptureError(
            f"layers {sorted(waiting)} gave no such hidden state: a module is not called as one; choose another feature"
        )
    silent = sorted(set(modules) - seen)
    if silent:
        raise CaptureError(
            f"{len(seen)} records for {len(modules)} layers in one forward, none from layers {silent}; "
            f"{_likely_cause(transformer)}"
        )


def _check_text_mask(record: LayerDescriptors, expected: Bool[Tensor, " text_token"]) -> None:
    if not torch.equal(record.text_mask, expected):
        raise CaptureError(
            f"layer {record.layer} attends to {int(record.text_mask.sum())} text tokens, the prompt has "
            f"{int(expected.sum())}; this version of diffusers masks text in another way"
        )


def _likely_cause(transformer: nn.Module) -> str:
    """What keeps attention away from torch's scaled-dot-product attention, as far as the model itself tells."""
    backends = {str(getattr(getattr(m, "processor", None), "_attention_backend", None)) for m in transformer.modules()}
    chosen = sorted(backends - {"None"})
    named = f" (here: {', '.join(chosen)})" if chosen else ""
    return (
        f"the attention backend{named} does not go through torch.nn.functional.scaled_dot_product_attention: call "
        f"transformer.set_attention_backend('native'), unset DIFFUSERS_ATTN_BACKEND, and remove xformers, sage or flex"
    )
