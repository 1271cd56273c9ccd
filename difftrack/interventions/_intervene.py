"""Applies interventions while a model runs."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from difftrack.backbones import Backbone
from difftrack.geometry import TokenGrid
from difftrack.interventions._attention import SequenceLayout
from difftrack.interventions._branches import Branch, BranchReader, CfgCallPattern
from difftrack.interventions._edits import Edit
from difftrack.interventions._engine import Engine, Moment
from difftrack.interventions._errors import InterventionError
from difftrack.interventions._replay import replaced_forward
from difftrack.interventions._sites import Intervention

__all__ = ["intervene_in", "intervening"]


@contextmanager
def intervening(
    backbone: Backbone,
    interventions: Sequence[Intervention],
    *,
    grid: TokenGrid | None,
    calls: CfgCallPattern = "named",
    num_clips: int = 1,
) -> Iterator[list[int]]:
    """Act on a backbone inside this context, for sampling, capture, or a single forward.

    One context is for one sampling run: steps are counted from 0, with a new step whenever the timestep changes.

    Args:
        backbone: All of its transformers are acted on.
        interventions: Interventions to apply; none change nothing.
        grid: Video tokens of the clip, from `backbone.token_grid`; may be None if no intervention needs the places of
            tokens.
        calls: How the pipeline calls the transformer.
        num_clips: Clips that are run at once.

    Yields:
        How often each intervention has acted so far; the list is updated.

    Raises:
        InterventionError: a layer or head does not exist, or sampling cannot be followed.
    """
    for intervention in interventions:
        intervention.chosen("heads", backbone.num_heads)
    layout = None
    if grid is not None and not backbone.num_history_tokens(grid):
        layout = SequenceLayout(grid.num_latent_frames, grid.rows * grid.cols, backbone.text_position)
    transformers = {id(one): (one, backbone.attention_of(one)) for one in backbone.all_transformers()}
    if grid is not None and layout is None and (asking := _asking(interventions)):
        raise InterventionError(
            f"{type(asking[0]).__name__} needs the places of the clip's frames, but {backbone.name} also attends to "
            f"frames of history; use an intervention that acts on all tokens"
        )
    with intervene_in(
        list(transformers.values()),
        layout,
        interventions,
        calls=calls,
        num_clips=num_clips,
    ) as acted:
        yield acted


@contextmanager
def intervene_in(
    transformers: Sequence[tuple[nn.Module, Sequence[nn.Module]]],
    layout: SequenceLayout | None,
    interventions: Sequence[Intervention],
    *,
    calls: CfgCallPattern = "named",
    num_clips: int = 1,
) -> Iterator[list[int]]:
    """Act on diffusers transformers that share the steps of one run, most often a single one.

    Args:
        transformers: Each with its attention over video tokens, layer by layer in execution order.
        layout: Places of video and text in their sequence; None if no intervention needs them.
        interventions: Interventions to apply.
        calls: How the pipeline calls them.
        num_clips: Clips that are run at once.

    Yields:
        How often each intervention has acted so far.

    Raises:
        InterventionError: a layer does not exist, or the calls cannot be followed.
    """
    asking = _asking(interventions)
    if asking and layout is None:
        raise InterventionError(
            f"{type(asking[0]).__name__} needs the places of frames; give size=, the size of the clip"
        )
    reader = BranchReader(calls, num_clips) if any(one.asks_for_moment for one in interventions) else None
    engines = [Engine(interventions, modules, layout or SequenceLayout(0, 0, "none")) for _, modules in transformers]
    acted = [0] * len(interventions)
    if not interventions:
        yield acted
        return
    steps = _Steps()
    with ExitStack() as stack:
        for (transformer, _), engine in zip(transformers, engines, strict=True):
            _check_transformer(transformer)
            engine.acted = acted
            forward = _FollowedForward(transformer.forward, engine, reader, steps, layout if asking else None)
            if reader is not None:
                stack.enter_context(reader.listening(transformer))
            stack.enter_context(replaced_forward(transformer, update_wrapper(forward, transformer.forward, updated=())))
            stack.enter_context(engine.installed(transformer))
        yield acted


def _asking(interventions: Sequence[Intervention]) -> list[Intervention]:
    """Those that ask what stands where in the sequence."""
    return [one for one in interventions if one.needs_layout or (isinstance(one, Edit) and one.tokens != "all")]


def _check_transformer(transformer: nn.Module) -> None:
    if getattr(transformer, "is_cache_enabled", False):
        raise InterventionError("a cache hook skips layers of the transformer; call transformer.disable_cache() first")
    if getattr(transformer.__dict__.get("forward"), "runs_forward_twice", False):
        raise InterventionError("guidance runs additional forwards; enter it inside the interventions, not around them")


class _Steps:
    """Counts the steps of a run by its timesteps."""

    def __init__(self) -> None:
        self._timestep: Tensor | None = None
        self._step = -1

    def at(self, timestep: Tensor) -> int:
        """Return the step of this timestep; all branches of a step have the same timestep."""
        level = torch.as_tensor(timestep).detach().reshape(-1)[-1]
        if self._timestep is None or level.device != self._timestep.device or not torch.equal(level, self._timestep):
            self._step += 1
            self._timestep = level.clone()
        return self._step


class _FollowedForward:
    """Replaces a transformer's forward, and tells the engine the step and branches of each call."""

    def __init__(
        self,
        forward: Callable[..., Any],
        engine: Engine,
        reader: BranchReader | None,
        steps: _Steps,
        layout: SequenceLayout | None,
    ) -> None:
        self._forward = forward
        self._signature = inspect.signature(forward)
        self._engine = engine
        self._reader = reader
        self._steps = steps
        self._layout = layout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        arguments = self._signature.bind(*args, **kwargs).arguments
        latents: Tensor = arguments["hidden_states"]
        step: int | None = None
        branch: Branch | None = None
        if self._layout is not None:
            self._layout.check_latents(latents)
        if self._reader is not None:
            branch = self._reader.read(len(latents), arguments["timestep"])
            step = self._steps.at(arguments["timestep"])
        self._engine.begin(Moment.of(step, branch, len(latents)))
        output = self._forward(*args, **kwargs)
        self._engine.end()
        return output
