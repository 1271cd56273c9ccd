"""Guiding a stock pipeline from outside: one more forward, and a shift of what the transformer predicts."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftrack.backbones import AttentionCall, Backbone, intercept
from difftrack.geometry import TokenGrid
from difftrack.guidance._attention import SequenceLayout, perturbed_attention
from difftrack.guidance._branches import Branch, BranchReader, CfgCallPattern
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._params import Guidance
from difftrack.guidance._replay import Prefix, blocks_around, replaced_forward

__all__ = ["check_layers", "guide_transformer", "guided"]


@contextmanager
def guided(
    backbone: Backbone, guidance: Guidance, *, grid: TokenGrid, calls: CfgCallPattern = "named", num_clips: int = 1
) -> Iterator[None]:
    """Guide whatever samples a backbone inside this context.

    One context is for one sampling run: its steps are the calls for the conditional branch, counted from 0.

    Args:
        backbone: Its transformer is guided, through any pipeline.
        guidance: How.
        grid: Video tokens of the clip that is sampled, from `backbone.token_grid`.
        calls: How the pipeline calls the transformer.
        num_clips: Clips that are sampled at once.

    Raises:
        GuidanceError: the backbone has not all of the layers, or its sampling cannot be followed.
    """
    if backbone.experts:
        raise GuidanceError(
            f"{backbone.name} samples with {len(backbone.experts)} transformers that share the steps; guidance follows "
            f"one: guide a backbone that has one"
        )
    layout = SequenceLayout(grid.num_latent_frames, grid.rows * grid.cols, backbone.text_position)
    modules = backbone.attention_modules()
    with guide_transformer(backbone.transformer, modules, layout, guidance, calls=calls, num_clips=num_clips):
        yield


@contextmanager
def guide_transformer(
    transformer: nn.Module,
    modules: Sequence[nn.Module],
    layout: SequenceLayout,
    guidance: Guidance,
    *,
    calls: CfgCallPattern = "named",
    num_clips: int = 1,
    reuse: bool = True,
) -> Iterator[None]:
    """Guide a diffusers transformer, whatever pipeline calls it.

    With e_c and e_u the predictions of a step, and e_p that of a forward of the conditional half in which the chosen
    layers cut attention between frames, both e_c and e_u are returned with `scale * (e_c - e_p)` added, in float32 or
    wider. The pipeline's own combination of the two then gives

        e_u + g (e_c - e_u) + scale * (e_c - e_p)

    and, where it runs no unconditional branch, `e_c + scale * (e_c - e_p)`. With scale 0 nothing is touched at all.

    Args:
        transformer: Left without a trace on the way out.
        modules: Attention over video tokens of every layer, in execution order.
        layout: What stands where in their sequence.
        guidance: How to guide.
        calls: How the pipeline calls the transformer.
        num_clips: Clips that are sampled at once.
        reuse: Start the perturbed forward at the first chosen layer, from what the conditional half gave there; else
            run it whole. Same numbers up to rounding.

    Raises:
        GuidanceError: there are not all of the layers, or the calls cannot be followed.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 5; the paper's equation 10 is the form without an unconditional
        branch, the released code's samples are made with the one above.
    """
    check_layers(guidance, len(modules))
    if getattr(transformer, "is_cache_enabled", False):
        raise GuidanceError("a cache hook skips layers of the transformer; call transformer.disable_cache() first")
    if guidance.scale == 0:
        yield
        return
    reader = BranchReader(calls, num_clips)
    prefix = Prefix(blocks_around(transformer, modules[: min(guidance.layers)]) if reuse else [])
    perturbed = {layer: modules[layer] for layer in sorted(guidance.layers)}
    forward = _GuidedForward(transformer.forward, perturbed, layout, guidance, reader, prefix, num_clips)
    with reader.listening(transformer), replaced_forward(transformer, update_wrapper(forward, transformer.forward)):
        yield


def check_layers(guidance: Guidance, num_layers: int) -> None:
    """Raise `GuidanceError` where guidance names a layer that there is not."""
    unknown = sorted(set(guidance.layers) - set(range(num_layers)))
    if unknown:
        raise GuidanceError(f"layers {unknown} cannot be perturbed; there are layers 0 to {num_layers - 1}")


class _GuidedForward:
    """Takes the place of a transformer's forward."""

    def __init__(
        self,
        forward: Callable[..., Any],
        modules: Mapping[int, nn.Module],
        layout: SequenceLayout,
        guidance: Guidance,
        reader: BranchReader,
        prefix: Prefix,
        num_clips: int,
    ) -> None:
        self._forward = forward
        self._signature = inspect.signature(forward)
        self._modules = modules
        self._layout = layout
        self._guidance = guidance
        self._reader = reader
        self._prefix = prefix
        self._num_clips = num_clips
        self._step = -1
        self._shift: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        arguments = self._signature.bind(*args, **kwargs).arguments
        branch = self._reader.read(len(arguments["hidden_states"]), arguments["timestep"])
        if branch == "uncond":
            return self._forward_uncond(arguments)
        self._step += 1
        if not self._guidance.applies(self._step):
            self._shift = None
            return self._forward(**arguments)
        return self._forward_cond(arguments, branch)

    def _forward_cond(self, arguments: dict[str, Any], branch: Branch) -> Any:  # noqa: ANN401
        """Answer a call that has the conditional half in it."""
        self._check_size(arguments["hidden_states"])
        cond = slice(self._num_clips if branch == "both" else 0, None)
        with self._prefix.recorded(cond):
            output = self._forward(**arguments)
        prediction = _wide(_prediction(output)[cond])
        self._shift = self._guidance.scale * (prediction - _wide(self._perturbed_prediction(arguments, cond)))
        shift = self._shift.repeat((2,) + (1,) * (self._shift.ndim - 1)) if branch == "both" else self._shift
        return _shifted(output, shift)

    def _check_size(self, latents: Float[Tensor, "batch ..."]) -> None:
        """A sequence does not tell text from video, so latents that cannot be this many tokens are refused here."""
        num_tokens = self._layout.num_latent_frames * self._layout.tokens_per_frame
        if latents[0].numel() % num_tokens:
            raise GuidanceError(
                f"latents of shape {list(latents.shape)} are not the {self._layout.num_latent_frames} latent frames of "
                f"{self._layout.tokens_per_frame} tokens that guidance was set up for; set it up for the sampled size"
            )

    def _forward_uncond(self, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        """Answer the unconditional call of a step whose conditional one was answered."""
        if self._step < 0:
            raise GuidanceError(
                "the unconditional branch is called before the conditional one, whose shift it needs; sample with a"
                " pipeline that runs both in one batch, or the conditional one first"
            )
        output = self._forward(**arguments)
        return output if self._shift is None else _shifted(output, self._shift)

    def _perturbed_prediction(self, arguments: Mapping[str, Any], cond: slice) -> Float[Tensor, "batch *prediction"]:
        batch_size, seen = len(arguments["hidden_states"]), set[int]()

        def attend(call: AttentionCall) -> Tensor:
            seen.add(call.layer)
            return self._attend(call)

        of_cond = {name: _rows(value, cond, batch_size) for name, value in arguments.items()}
        with self._prefix.replayed(), intercept(self._modules, attend):
            prediction = _prediction(self._forward(**of_cond))
        silent = sorted(set(self._modules) - seen)
        if silent:
            raise GuidanceError(
                f"layers {silent} never came to torch's scaled-dot-product attention, so nothing was perturbed there; "
                f"call transformer.set_attention_backend('native') and unset DIFFUSERS_ATTN_BACKEND"
            )
        return prediction

    def _attend(self, call: AttentionCall) -> Float[Tensor, "batch head token channel"]:
        query = call.query
        if call.arguments.get("is_causal", False) or query.shape[2] != call.key.shape[2]:
            raise GuidanceError(f"layer {call.layer}: attention is causal or crosses sequences; it cannot be guided")
        return perturbed_attention(
            query,
            call.key,
            call.value,
            self._layout,
            variant=self._guidance.variant,
            mask=self._attended_by_video(call),
            scale=call.arguments.get("scale"),
        )

    def _attended_by_video(self, call: AttentionCall) -> Bool[Tensor, "batch 1 1 token"] | None:
        """Which tokens video tokens attend to, and so all whose output anybody reads."""
        mask, num_tokens = call.mask, call.query.shape[2]
        if mask is None:
            return None
        if mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == 1:
            video = self._layout.video(num_tokens)
            rows = mask.expand(len(call.query), 1, num_tokens, num_tokens)[:, :, video]
            if torch.equal(rows[:, :, 0], rows[:, :, -1]):
                return rows[:, :, :1]
        raise GuidanceError(
            f"layer {call.layer}: the model masks by a {mask.dtype} mask of shape {list(mask.shape)}; only masks that "
            f"are the same for all video tokens can be guided"
        )


def _rows(value: Any, rows: slice, batch_size: int) -> Any:  # noqa: ANN401
    """The part of an argument that is about some rows of the batch; positions, in tuples, are about all."""
    batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch_size
    return value[rows] if batched else value


def _wide(prediction: Tensor) -> Tensor:
    """In float32 at least, so that guidance adds no rounding of its own."""
    return prediction.to(torch.promote_types(prediction.dtype, torch.float32))


def _prediction(output: Any) -> Float[Tensor, "batch *prediction"]:  # noqa: ANN401
    """Take the prediction out of a transformer's output; Kandinsky's transformers give the tensor itself."""
    prediction: Tensor = output if isinstance(output, Tensor) else output[0]
    return prediction


def _shifted(output: Any, shift: Float[Tensor, "batch *prediction"]) -> Any:  # noqa: ANN401
    """A transformer's output with something added to its prediction."""
    prediction = _wide(_prediction(output)) + shift
    if isinstance(output, Tensor):
        return prediction
    if dataclasses.is_dataclass(output):
        return dataclasses.replace(output, sample=prediction)  # type: ignore[type-var]
    return (prediction, *output[1:])
