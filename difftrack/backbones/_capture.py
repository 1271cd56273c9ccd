"""Runs one forward of a transformer, captures the requested layers, and stops after the last."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from difftrack.backbones._descriptors import (
    LayerDescriptors,
    SequencePart,
    TextPosition,
    describe_call,
    describe_cross_call,
    video_tokens,
)
from difftrack.backbones._errors import CaptureError
from difftrack.backbones._params import CapturedKind
from difftrack.backbones._seam import AttentionCall, intercept
from difftrack.backbones._taps import FEATURE, NO_TAPS, UNROTATED, Taps
from difftrack.geometry import TokenGrid

__all__ = ["CrossAttention", "capture_layers"]


class _ForwardDone(Exception):
    """Stops a forward early."""


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """The captured cross-attention to the text, for models where it is separate."""

    modules: Mapping[int, nn.Module]
    """Cross-attention of each requested layer."""
    text_mask: Bool[Tensor, " text_token"]
    """Text tokens that it reads; True where the model should attend to them."""
    text_call: int
    """Index of the attention call to the text within a module."""


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
    cross: CrossAttention | None = None,
    parts: Sequence[SequencePart] = (),
) -> None:
    """Run `forward` until the last module's attention, and pass each module's descriptors to `sink`.

    Args:
        transformer: Searched for likely causes if the capture fails.
        modules: Attention module of each requested layer.
        forward: Runs the transformer once on a batch of one.
        sink: Called once for each module, inside the forward: tensors that it does not keep are freed before the next
            layer.
        grid: Layout of the video tokens.
        text_mask: Text tokens in the sequence; True where the model should attend to them.
        text_position: Their place in the sequence.
        kinds: Descriptors to keep.
        taps: Modules whose inputs or outputs are also kept.
        cross: Cross-attention whose queries and text keys are also kept.
        parts: What the sequence consists of beside the text; nothing for the clip alone.

    Raises:
        CaptureError: a cache is on, a module's attention was not seen exactly once, or its sequence or its text mask is
            not the one expected.
    """
    if getattr(transformer, "is_cache_enabled", False):
        cache = type(getattr(transformer, "_cache_config", None)).__name__.removesuffix("Config")
        raise CaptureError(
            f"a cache hook ({cache}) reuses layers from other steps, so a skipped step has nothing to capture: call "
            "transformer.disable_cache() first"
        )
    collected = _Collected(modules, sink, grid, text_mask, text_position, kinds, taps, cross, parts)
    with (
        torch.no_grad(),
        taps.listen(collected.hear),
        intercept(modules, collected.attend),
        intercept({} if cross is None else cross.modules, collected.attend_to_text),
        suppress(_ForwardDone),
    ):
        forward()
    if collected.waiting:
        raise CaptureError(
            f"layers {sorted(collected.waiting)} gave no such hidden state: the transformer does not call that "
            "module; choose another feature"
        )
    if collected.without_text:
        raise CaptureError(
            f"no cross-attention was recorded in layers {sorted(collected.without_text)}; {_likely_cause(transformer)}"
        )
    seen = collected.seen
    silent = sorted(set(modules) - seen)
    if silent:
        raise CaptureError(
            f"{len(seen)} records for {len(modules)} layers in one forward, none from layers {silent}; "
            f"{_likely_cause(transformer)}"
        )


class _Collected:
    """Collects the descriptors of one forward, layer by layer.

    Args:
        modules: Attention module of each requested layer.
        sink: Takes the descriptors of each layer.
        grid: As in `capture_layers`.
        text_mask: As in `capture_layers`.
        text_position: As in `capture_layers`.
        kinds: As in `capture_layers`.
        taps: As in `capture_layers`.
        cross: As in `capture_layers`.
        parts: As in `capture_layers`.
    """

    def __init__(
        self,
        modules: Mapping[int, nn.Module],
        sink: Callable[[LayerDescriptors], None],
        grid: TokenGrid,
        text_mask: Bool[Tensor, " text_token"],
        text_position: TextPosition,
        kinds: tuple[CapturedKind, ...],
        taps: Taps,
        cross: CrossAttention | None,
        parts: Sequence[SequencePart],
    ) -> None:
        self.seen: set[int] = set()
        """Layers that attended."""
        self.waiting: dict[int, LayerDescriptors] = {}
        """Layers whose feature follows their attention and is still missing."""
        self.without_text: dict[int, LayerDescriptors] = {}
        """Layers that only wait for their cross-attention."""
        self._cross, self._parts = cross, parts
        self._cross_calls: Counter[int] = Counter()
        self._crossed: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._held: dict[tuple[int, str], object] = {}
        self._last_layer, self._sink, self._grid = max(modules), sink, grid
        self._text_mask, self._text_position, self._kinds = text_mask, text_position, kinds
        self._of_heads, self._of_module = "feature" in kinds and not taps.features, bool(taps.features)

    def attend(self, call: AttentionCall) -> Tensor:
        """Replace the attention in a captured layer."""
        if call.layer in self.seen:
            raise CaptureError(
                f"layer {call.layer} attended more than once in one forward; gradient checkpointing "
                f"(transformer.disable_gradient_checkpointing()) or a hook runs it again"
            )
        comes_later = self._of_module and (call.layer, FEATURE) not in self._held
        needed = call.layer != self._last_layer or self._of_heads or comes_later or self._cross is not None
        output = call.run() if needed else None
        record = describe_call(
            call,
            output if self._of_heads else None,
            grid=self._grid,
            num_text_tokens=len(self._text_mask),
            text_position=self._text_position,
            kinds=self._kinds,
            unrotated={name: self._held.pop((call.layer, name), None) for name in UNROTATED},
            parts=self._parts,
        )
        _check_text_mask(record, self._text_mask)
        self.seen.add(call.layer)
        if comes_later:
            self.waiting[call.layer] = record
        else:
            self._hand_over(record, self._held.pop((call.layer, FEATURE), None))
        return call.run() if output is None else output

    def attend_to_text(self, call: AttentionCall) -> Tensor:
        """Replace the cross-attention in a captured layer; calls to anything but the text run unchanged."""
        if self._cross is None:
            return call.run()
        self._cross_calls[call.layer] += 1
        if self._cross_calls[call.layer] == self._cross.text_call + 1:
            found = describe_cross_call(call, grid=self._grid, num_text_tokens=len(self._cross.text_mask))
            self._crossed[call.layer] = found
            if call.layer in self.without_text:
                self._finish(self.without_text.pop(call.layer))
        return call.run()

    def hear(self, layer: int, name: str, value: object) -> None:
        """Hold values from before the attention; a feature after it completes its layer."""
        if name == FEATURE and layer in self.waiting:
            self._hand_over(self.waiting.pop(layer), value)
        elif layer not in self.seen:
            self._held[layer, name] = value

    def _hand_over(self, record: LayerDescriptors, feature: object) -> None:
        whole = self._with_feature(record, feature) if self._of_module else record
        if self._cross is not None and record.layer not in self._crossed:
            self.without_text[record.layer] = whole
        else:
            self._finish(whole)

    def _finish(self, record: LayerDescriptors) -> None:
        if self._cross is not None:
            query, text_key, mask = self._crossed.pop(record.layer)
            record = replace(record, cross_query=query, text_key=text_key, text_mask=mask)
            _check_text_mask(record, self._cross.text_mask)
        self._sink(record)
        if record.layer == self._last_layer:
            raise _ForwardDone

    def _with_feature(self, record: LayerDescriptors, output: object) -> LayerDescriptors:
        heads, channels, grid = record.text_key.shape[0], record.text_key.shape[-1], self._grid
        feature = video_tokens(output, grid, len(self._text_mask), self._text_position, heads, channels, self._parts)
        if feature is None:
            raise CaptureError(
                f"layer {record.layer}: this hidden state has no {grid.num_tokens} video tokens of {heads} x "
                f"{channels} channels; choose another feature, such as heads"
            )
        return replace(record, feature=feature)


def _check_text_mask(record: LayerDescriptors, expected: Bool[Tensor, " text_token"]) -> None:
    if not torch.equal(record.text_mask, expected):
        raise CaptureError(
            f"layer {record.layer} attends to {int(record.text_mask.sum())} text tokens, the prompt has "
            f"{int(expected.sum())}; this version of diffusers masks text in another way"
        )


def _likely_cause(transformer: nn.Module) -> str:
    """Return likely reasons why attention bypasses torch's scaled-dot-product attention, as far as the model shows."""
    backends = {str(getattr(getattr(m, "processor", None), "_attention_backend", None)) for m in transformer.modules()}
    chosen = sorted(backends - {"None"})
    named = f" (here: {', '.join(chosen)})" if chosen else ""
    return (
        f"the attention backend{named} does not go through torch.nn.functional.scaled_dot_product_attention: call "
        f"transformer.set_attention_backend('native'), unset DIFFUSERS_ATTN_BACKEND, and remove xformers, sage or flex"
    )
