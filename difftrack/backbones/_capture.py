"""One forward of a transformer, tapped at the wanted layers and cut off after the last of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from difftrack.backbones._descriptors import LayerDescriptors, TextPosition, describe_call, describe_cross_call
from difftrack.backbones._errors import CaptureError
from difftrack.backbones._params import CapturedKind
from difftrack.backbones._seam import AttentionCall, intercept
from difftrack.geometry import TokenGrid

__all__ = ["CrossAttention", "capture_layers"]


class _ForwardDone(Exception):
    """Leaves a forward early."""


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """The cross-attention to the text that is captured beside the attention over video tokens."""

    modules: Mapping[int, nn.Module]
    """Of each wanted layer; empty where it is not captured."""
    text_mask: Bool[Tensor, " text_token"]
    """Text tokens that it reads; True where the model is expected to attend to them."""
    text_call: int
    """Which of a module's attention calls is to the text."""


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
    cross: CrossAttention,
) -> None:
    """Run `forward` until the last module's attention, and hand over each module's descriptors when it attends.

    Args:
        transformer: Asked, when the capture fails, for likely causes.
        modules: Attention module of each wanted layer.
        forward: Runs the transformer once on a batch of one.
        sink: Called once for each layer, inside the forward, when all of its wanted attention was seen: what it does
            not keep is let go of before the next layer.
        grid: Layout of the video tokens.
        text_mask: Text tokens in the sequence; True where the model is expected to attend to them.
        text_position: Where they stand.
        kinds: Descriptors to keep.
        cross: Cross-attention that is captured, too, where `kinds` say so.

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
    waiting: dict[int, LayerDescriptors] = {}
    cross_calls: Counter[int] = Counter()

    def attend(call: AttentionCall) -> Tensor:
        if call.layer in seen:
            raise CaptureError(
                f"layer {call.layer} attended more than once in one forward; gradient checkpointing "
                f"(transformer.disable_gradient_checkpointing()) or a hook runs it again"
            )
        is_last = call.layer == last_layer and not cross.modules
        output = call.run() if not is_last or "feature" in kinds else None
        record = describe_call(
            call, output, grid=grid, num_text_tokens=len(text_mask), text_position=text_position, kinds=kinds
        )
        _check_text_mask(record, text_mask)
        seen.add(call.layer)
        if cross.modules:
            waiting[call.layer] = record
        else:
            sink(record)
        if output is None or is_last:
            raise _ForwardDone
        return output

    def attend_to_text(call: AttentionCall) -> Tensor:
        cross_calls[call.layer] += 1
        if cross_calls[call.layer] != cross.text_call + 1:
            return call.run()
        query, text_key, mask = describe_cross_call(call, grid=grid, num_text_tokens=len(cross.text_mask))
        if call.layer not in waiting:
            raise CaptureError(f"layer {call.layer} attends to the text before the video: this is not supported")
        record = replace(waiting.pop(call.layer), cross_query=query, text_key=text_key, text_mask=mask)
        _check_text_mask(record, cross.text_mask)
        sink(record)
        if call.layer == last_layer:
            raise _ForwardDone
        return call.run()

    with torch.no_grad(), intercept(modules, attend), intercept(cross.modules, attend_to_text), suppress(_ForwardDone):
        forward()
    silent = sorted({*(set(modules) - seen), *waiting})
    if silent:
        where = "the cross-attention" if seen == set(modules) else "layers"
        raise CaptureError(
            f"{len(modules) - len(silent)} records for {len(modules)} layers in one forward, none from {where} "
            f"{silent}; {_likely_cause(transformer)}"
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
