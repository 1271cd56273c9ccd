"""Train the transformer and its text encoder on pools of encoded clips."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.training._latents import LatentBatch, LatentSource
from difftrack.training._loop import Average, Budget, Checkpoint, TrainingLog, learning_rate
from difftrack.training._networks import VideoDenoiser
from difftrack.training._optimizers import OptimizerName, limit_gradients, make_optimizers, set_learning_rate
from difftrack.training._precision import compile_parts
from difftrack.training._replicas import ALONE, Replicas
from difftrack.training._rotary import rotary_tables

__all__ = ["AccuracyProbe", "TransformerTraining", "train_transformer"]

CLEANEST = 19
"""Timestep of the last of 50 steps, where matching is read while training goes on."""
_OUTLINES_HIDDEN = 0.74
"""Share of the schedule above which noise hides most of an outline."""
LEVELS = range(199, 1000, 200)
"""Timesteps that are measured besides at the end."""


@dataclass(frozen=True, slots=True)
class TransformerTraining:
    """Schedule of the transformer's training."""

    start_from: str | None = None
    """Pipeline folder whose weights are trained on, with a fresh optimizer; null starts from random ones."""
    train_text_encoder: bool = True
    """False leaves it as it is, as is done where it was trained on text alone."""
    optimizer: OptimizerName = "adamw"
    max_steps: int = 100_000
    max_seconds: float = 1000.0
    """The schedule ends at whichever of the two limits comes first; 0 leaves the weights as they are."""
    uniform_levels: float = 0.3
    """Share of noise levels drawn uniformly; the rest is logit-normal."""
    logit_mean: float = 0.0
    """Of the logit-normal levels: 0 puts most in the middle; 1.5 above three fifths, where prompts matter."""
    card_levels: float = 0.8
    """Of the noise levels of `PoolParams.cards`, the share drawn above `_OUTLINES_HIDDEN`, an eighth of them the
    noisiest of all, where sampling begins: there an outline has to be told, below it is seen."""
    drop_prompt: float = 0.1
    """Share of prompts replaced by the empty one, for guidance."""
    drop_prompt_alone: float = 0.5
    """The same for sequences of single frames: trackers have no prompt."""
    peak_learning_rate: float = 1e-3
    constant_share: float = 0.3
    """Share of the schedule at the peak, before the cosine."""
    weight_decay: float = 1e-2
    average_decay: float = 0.999
    log_every: int = 50
    probe_seconds: float = 60.0
    """Between measurements of matching accuracy."""
    save_seconds: float = 120.0
    """Between checkpoints, and averaged pipelines."""
    seed: int = 0


@runtime_checkable
class AccuracyProbe(Protocol):
    """Measures matching accuracy while a network is trained; `workflows.curves.LayerCurves` is one."""

    def accuracy(
        self, denoiser: VideoDenoiser, scheduler: CogVideoXDDIMScheduler, timestep: int
    ) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """Give the share of visible points that each layer matches at a noise level: view -> split -> layers."""


def train_transformer(
    denoiser: VideoDenoiser,
    source: LatentSource,
    scheduler: CogVideoXDDIMScheduler,
    params: TransformerTraining,
    *,
    probe: AccuracyProbe,
    empty_prompt: Tensor,
    folder: Path,
    save: Callable[[VideoDenoiser], None],
    replicas: Replicas = ALONE,
) -> VideoDenoiser:
    """Train in place; returns a copy with the averaged weights.

    Loss: mean squared error of the velocity (v-prediction) at random noise levels. What a step draws depends on its
    number and the seed alone, so that a resumed run goes on as if it had never stopped, as far as its clips allow.

    Args:
        denoiser: Trained in place.
        source: Gives encoded clips.
        scheduler: Its noise levels are used.
        params: Schedule.
        probe: Measured every `params.probe_seconds`.
        empty_prompt: Tokens of the empty prompt, `[1, text_token]`.
        folder: Receives `transformer.jsonl` and `transformer.pt`, from which an interrupted run goes on.
        save: Given the averaged weights at every checkpoint, in the first replica alone; the last of them before they
            are measured, which takes long enough for a machine to be gone.
        replicas: Processes that train the same weights, each with a source and noise of its own.
    """
    device = empty_prompt.device
    budget = Budget(params.max_steps, params.max_seconds, replicas=replicas)
    denoiser.text_encoder.requires_grad_(params.train_text_encoder)
    optimizers = make_optimizers(denoiser, params.optimizer, betas=(0.9, 0.95), weight_decay=params.weight_decay)
    average = Average(denoiser, params.average_decay)
    averaged = deepcopy(denoiser).eval().requires_grad_(False)
    log, checkpoint = TrainingLog(folder / "transformer.jsonl", budget), Checkpoint(folder / "transformer.pt")
    if (state := checkpoint.load(budget, device)) is not None:
        _go_on(state, denoiser, optimizers, average)
    log.rewind()
    if device.type == "cuda":
        compile_parts(denoiser.transformer.transformer_blocks, dynamic=None)
    begun = probed = saved = budget.seconds
    dropped = torch.zeros((), dtype=torch.long, device=device)

    def measure(timestep: int) -> None:
        if not replicas.first:
            return
        average.copy_to(averaged)
        log.write(timestep=timestep, accuracy=probe.accuracy(averaged, scheduler, timestep))

    def keep() -> None:
        checkpoint.save(budget, _state(denoiser, optimizers, average))
        average.copy_to(averaged)
        if replicas.first:
            save(averaged)

    while budget.look() < 1:
        set_learning_rate(
            optimizers,
            learning_rate(budget.progress, peak=params.peak_learning_rate, constant=params.constant_share),
        )
        source.refresh(budget.seconds - begun)
        loss, batch = _loss(denoiser, source, scheduler, params, budget=budget, empty_prompt=empty_prompt)
        norm = _descend(denoiser, loss, optimizers, replicas)
        dropped += ~norm.isfinite()
        average.update(budget.step)
        budget.step += 1
        if budget.step % params.log_every == 0:
            log.write(
                loss=float(loss.detach()), gradient=float(norm), dropped=int(dropped), shape=list(batch.latents.shape)
            )
        if budget.seconds - probed > params.probe_seconds:
            measure(CLEANEST)
            probed = budget.seconds
        if budget.seconds - saved > params.save_seconds:
            keep()
            saved = budget.seconds
    keep()
    for timestep in (CLEANEST, *LEVELS):
        measure(timestep)
    return averaged


def _descend(
    denoiser: VideoDenoiser, loss: Float[Tensor, ""], optimizers: list[torch.optim.Optimizer], replicas: Replicas
) -> Float[Tensor, ""]:
    """One step of every optimizer; gives the norm of the gradient."""
    loss.backward()  # type: ignore[no-untyped-call]
    replicas.average_gradients(denoiser.parameters())
    norm = limit_gradients(denoiser.parameters())
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


def _loss(
    denoiser: VideoDenoiser,
    source: LatentSource,
    scheduler: CogVideoXDDIMScheduler,
    params: TransformerTraining,
    *,
    budget: Budget,
    empty_prompt: Tensor,
) -> tuple[Float[Tensor, ""], LatentBatch]:
    device = empty_prompt.device
    # All replicas take clips of the same shape, which last equally long, but other ones.
    generator = torch.Generator(device).manual_seed(params.seed * 2**32 + budget.replicas.rank * 2**24 + budget.step)
    batch = source.draw(np.random.default_rng([params.seed, budget.step]), generator)
    count, num_latent_frames, _, rows, cols = batch.latents.shape
    dropped = torch.rand((count, 1), generator=generator, device=device) < (
        params.drop_prompt_alone if batch.frames_alone else params.drop_prompt
    )
    timesteps = _noise_levels(count, scheduler.config.num_train_timesteps, params, generator)
    if batch.cards:
        timesteps = _levels_of_cards(timesteps, scheduler.config.num_train_timesteps, params, generator)
    noise = torch.randn(batch.latents.shape, generator=generator, device=device)
    noisy = scheduler.add_noise(batch.latents, noise, timesteps)
    velocity = scheduler.get_velocity(batch.latents, noise, timesteps)
    rotary = rotary_tables(denoiser.transformer, num_latent_frames, rows, cols)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        predicted = denoiser(noisy, torch.where(dropped, empty_prompt, batch.tokens), timesteps, rotary)
    loss: Tensor = (predicted.float() - velocity).square().mean()
    return loss, batch


def _noise_levels(
    count: int, num_timesteps: int, params: TransformerTraining, generator: torch.Generator
) -> Int[Tensor, " clip"]:
    device = generator.device
    normal = torch.randn(count, generator=generator, device=device)
    middle = torch.sigmoid(normal + params.logit_mean)
    uniform = torch.rand(count, generator=generator, device=device)
    choose = torch.rand(count, generator=generator, device=device) < params.uniform_levels
    levels: Tensor = (torch.where(choose, uniform, middle) * num_timesteps).long()
    return levels


def _levels_of_cards(
    levels: Int[Tensor, " clip"], num_timesteps: int, params: TransformerTraining, generator: torch.Generator
) -> Int[Tensor, " clip"]:
    """Of levels as other clips have them, most put where outlines are hidden."""
    place, choose = torch.rand((2, len(levels)), generator=generator, device=generator.device)
    hidden = ((_OUTLINES_HIDDEN + (1 - _OUTLINES_HIDDEN) * place) * num_timesteps).long()
    noisiest = choose < params.card_levels / 8
    moved: Tensor = torch.where(choose < params.card_levels, hidden, levels)
    return moved.masked_fill(noisiest, num_timesteps - 1)


def _state(denoiser: VideoDenoiser, optimizers: list[torch.optim.Optimizer], average: Average) -> dict[str, object]:
    return {
        "denoiser": denoiser.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average.values,
    }


def _go_on(
    state: Mapping[str, Any], denoiser: VideoDenoiser, optimizers: list[torch.optim.Optimizer], average: Average
) -> None:
    """Undo `_state`."""
    denoiser.load_state_dict(state["denoiser"])
    average.values = state["average"]
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
