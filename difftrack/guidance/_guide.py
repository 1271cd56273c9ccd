"""Guiding a stock pipeline from outside: one more forward, and a shift of what the transformer predicts."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftrack.backbones import Backbone
from difftrack.geometry import TokenGrid
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._params import Guidance
from difftrack.interventions import (
    Branch,
    BranchReader,
    CfgCallPattern,
    Engine,
    Identity,
    Intervention,
    Moment,
    OwnFrame,
    Prefix,
    SequenceLayout,
    SkipLayer,
    blocks_around,
    calls_at,
    perturbed_attention,
    replaced_forward,
)

__all__ = [
    "CfgCallPattern",
    "SequenceLayout",
    "calls_at",
    "check_layers",
    "guide_transformer",
    "guided",
    "perturbation",
    "perturbed_attention",
]


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
    if backbone.num_history_tokens(grid):
        raise GuidanceError(
            f"{backbone.name} attends to frames of history in the same sequence, and what guidance cuts between frames "
            f"is not defined for them: guide a backbone that attends to its clip alone"
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
    engine = Engine([perturbation(guidance)], modules, layout)
    forward = _GuidedForward(transformer, engine, layout, guidance, reader, prefix, num_clips)
    with (
        reader.listening(transformer),
        replaced_forward(transformer, update_wrapper(forward, transformer.forward, updated=())),
    ):
        yield


def check_layers(guidance: Guidance, num_layers: int) -> None:
    """Raise `GuidanceError` where guidance names a layer that there is not."""
    unknown = sorted(set(guidance.layers) - set(range(num_layers)))
    if unknown:
        raise GuidanceError(f"layers {unknown} cannot be perturbed; there are layers 0 to {num_layers - 1}")


def perturbation(guidance: Guidance) -> Intervention:
    """What is done to the forward whose prediction guidance goes away from."""
    layers = tuple(sorted(guidance.layers))
    if guidance.variant == "identity":
        return Identity(layers=layers)
    if guidance.variant == "skip":
        return SkipLayer(layers=layers)
    return OwnFrame(layers=layers, variant=guidance.variant)


class _GuidedForward:
    """Takes the place of a transformer's forward."""

    runs_forward_twice = True
    """Interventions that were entered inside guidance could not tell its two forwards apart, and ask for this."""

    def __init__(
        self,
        transformer: nn.Module,
        engine: Engine,
        layout: SequenceLayout,
        guidance: Guidance,
        reader: BranchReader,
        prefix: Prefix,
        num_clips: int,
    ) -> None:
        self._transformer = transformer
        self._forward = transformer.forward
        self._signature = inspect.signature(self._forward)
        self._engine = engine
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
        self._layout.check_latents(arguments["hidden_states"])
        cond = slice(self._num_clips if branch == "both" else 0, None)
        with self._prefix.recorded(cond):
            output = self._forward(**arguments)
        prediction = _wide(_prediction(output)[cond])
        self._shift = self._guidance.scale * (prediction - _wide(self._perturbed_prediction(arguments, cond)))
        shift = self._shift.repeat((2,) + (1,) * (self._shift.ndim - 1)) if branch == "both" else self._shift
        return _shifted(output, shift)

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
        batch_size = len(arguments["hidden_states"])
        of_cond = {name: _rows(value, cond, batch_size) for name, value in arguments.items()}
        self._engine.begin(Moment.of(self._step, "cond", len(of_cond["hidden_states"])))
        with self._prefix.replayed(), self._engine.installed(self._transformer):
            prediction = _prediction(self._forward(**of_cond))
        self._engine.end()
        return prediction


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
