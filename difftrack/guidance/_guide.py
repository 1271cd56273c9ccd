"""Guides a stock pipeline from outside: runs a second forward and shifts the transformer's prediction."""

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
    """Guide all sampling of a backbone inside this context.

    One context is for one sampling run: its steps are the calls for the conditional branch, counted from 0.

    Args:
        backbone: Its transformer is guided, through any pipeline.
        guidance: How to guide.
        grid: Video tokens of the clip that is sampled, from `backbone.token_grid`.
        calls: How the pipeline calls the transformer.
        num_clips: Clips that are sampled at once.

    Raises:
        GuidanceError: the backbone lacks some of the layers, or its sampling cannot be followed.
    """
    if backbone.experts:
        raise GuidanceError(
            f"{backbone.name} samples with {len(backbone.experts)} transformers that share the steps; guidance "
            "supports only one: choose a backbone with one transformer"
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
    """Guide a diffusers transformer, for any pipeline that calls it.

    With e_c and e_u the predictions of a step, and e_p that of a forward of the conditional half in which the chosen
    layers cut attention between frames, both e_c and e_u are returned with `scale * (e_c - e_p)` added, in float32 or
    wider. The pipeline's own combination of the two then gives

        e_u + g (e_c - e_u) + scale * (e_c - e_p)

    and, where it runs no unconditional branch, `e_c + scale * (e_c - e_p)`. With scale 0 nothing is changed.

    Args:
        transformer: Transformer to guide; restored at the end.
        modules: Attention over video tokens of every layer, in execution order.
        layout: Places of video and text in their sequence.
        guidance: How to guide.
        calls: How the pipeline calls the transformer.
        num_clips: Clips that are sampled at once.
        reuse: Start the perturbed forward at the first chosen layer, from the conditional half's hidden state; else run
            all layers. Results are equal up to rounding.

    Raises:
        GuidanceError: some of the layers do not exist, or the calls cannot be followed.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 5; the paper's equation 10 is the form without an unconditional
        branch; the released code uses the form above.
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
    """Raise `GuidanceError` if guidance names a layer that does not exist."""
    unknown = sorted(set(guidance.layers) - set(range(num_layers)))
    if unknown:
        raise GuidanceError(f"layers {unknown} cannot be perturbed; there are layers 0 to {num_layers - 1}")


def perturbation(guidance: Guidance) -> Intervention:
    """Return the intervention for the forward that guidance steers away from."""
    layers = tuple(sorted(guidance.layers))
    if guidance.variant == "identity":
        return Identity(layers=layers)
    if guidance.variant == "skip":
        return SkipLayer(layers=layers)
    return OwnFrame(layers=layers, variant=guidance.variant)


class _GuidedForward:
    """Replaces a transformer's forward."""

    runs_forward_twice = True
    """Interventions check this: entered inside guidance, they could not distinguish its two forwards."""

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
        """Answer a call that includes the conditional half."""
        self._layout.check_latents(arguments["hidden_states"])
        cond = slice(self._num_clips if branch == "both" else 0, None)
        with self._prefix.recorded(cond):
            output = self._forward(**arguments)
        prediction = _wide(_prediction(output)[cond])
        self._shift = self._guidance.scale * (prediction - _wide(self._perturbed_prediction(arguments, cond)))
        shift = self._shift.repeat((2,) + (1,) * (self._shift.ndim - 1)) if branch == "both" else self._shift
        return _shifted(output, shift)

    def _forward_uncond(self, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        """Answer the unconditional call of a step after its conditional call."""
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
    """Select an argument's rows of the batch; positions, which are tuples, apply to all rows."""
    batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch_size
    return value[rows] if batched else value


def _wide(prediction: Tensor) -> Tensor:
    """Convert to float32 at least, so that guidance adds no rounding."""
    return prediction.to(torch.promote_types(prediction.dtype, torch.float32))


def _prediction(output: Any) -> Float[Tensor, "batch *prediction"]:  # noqa: ANN401
    """Extract the prediction from a transformer's output; Kandinsky's transformers return the tensor itself."""
    prediction: Tensor = output if isinstance(output, Tensor) else output[0]
    return prediction


def _shifted(output: Any, shift: Float[Tensor, "batch *prediction"]) -> Any:  # noqa: ANN401
    """Add a shift to the prediction in a transformer's output."""
    prediction = _wide(_prediction(output)) + shift
    if isinstance(output, Tensor):
        return prediction
    if dataclasses.is_dataclass(output):
        return dataclasses.replace(output, sample=prediction)  # type: ignore[type-var]
    return (prediction, *output[1:])
