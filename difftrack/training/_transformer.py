"""Train the transformer, and optionally its text encoder, on pools of encoded clips."""

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
"""Timestep of the last of 50 steps, at which matching accuracy is measured during training."""
_OUTLINES_HIDDEN = 0.74
"""Noise level (share of the schedule) above which noise hides most of an outline."""
LEVELS = range(199, 1000, 200)
"""Further timesteps at which accuracy is measured when training ends."""


@dataclass(frozen=True, slots=True)
class TransformerTraining:
    """Training schedule of the transformer."""

    start_from: str | None = None
    """Pipeline folder whose weights the training starts from, with a new optimizer; null starts from random weights."""
    train_text_encoder: bool = True
    """False freezes the text encoder, as when it was trained on prompts only."""
    optimizer: OptimizerName = "adamw"
    max_steps: int = 100_000
    max_seconds: float = 1000.0
    """The schedule ends at whichever of the two limits comes first; 0 leaves the weights unchanged."""
    uniform_levels: float = 0.3
    """Share of noise levels drawn uniformly; the others are drawn from a logit-normal distribution."""
    logit_mean: float = 0.0
    """Mean of the logit-normal levels. 0 puts most of them in the middle, 1.5 above three fifths, where prompts
    matter."""
    card_levels: float = 0.8
    """Share of the noise levels of `PoolParams.cards` drawn above `_OUTLINES_HIDDEN`; an eighth of these are the
    noisiest level, where sampling begins. Above `_OUTLINES_HIDDEN` outlines are hidden, so only the prompt reveals the
    shape."""
    drop_prompt: float = 0.1
    """Share of prompts replaced by the empty prompt, for classifier-free guidance."""
    drop_prompt_alone: float = 0.5
    """The same share for sequences of separately encoded frames. It is higher because trackers have no prompt."""
    peak_learning_rate: float = 1e-3
    constant_share: float = 0.3
    """Share of the schedule at the peak, before the cosine."""
    weight_decay: float = 1e-2
    average_decay: float = 0.999
    log_every: int = 50
    probe_seconds: float = 60.0
    """Seconds between measurements of matching accuracy."""
    save_seconds: float = 120.0
    """Seconds between checkpoints; each also saves a pipeline with the averaged weights."""
    seed: int = 0


@runtime_checkable
class AccuracyProbe(Protocol):
    """Measures matching accuracy during training; `workflows.curves.LayerCurves` implements it."""

    def accuracy(
        self, denoiser: VideoDenoiser, scheduler: CogVideoXDDIMScheduler, timestep: int
    ) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """Return the share of visible points that each layer matches at a timestep: view -> split -> layers."""


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
    """Train the denoiser in place and return a copy with the averaged weights.

    Loss: mean squared error of the velocity (v-prediction) at random noise levels. The random draws of a step depend
        only
    on its number and the seed, so a resumed run continues as if it had not stopped, except that its pools may hold
    other clips.

    Args:
        denoiser: Trained in place.
        source: Supplies encoded clips.
        scheduler: Defines the noise levels.
        params: Schedule.
        probe: Measured every `params.probe_seconds`.
        empty_prompt: Tokens of the empty prompt, `[1, text_token]`.
        folder: Receives `transformer.jsonl` and `transformer.pt`; an interrupted run resumes from them.
        save: Receives the averaged weights at every checkpoint, only in the first replica. The final weights are saved
            before they are measured, because the measurement is long and the machine may be lost during it.
        replicas: Processes that train the same weights, each with its own source and noise.
    """
    device = empty_prompt.device
    budget = Budget(params.max_steps, params.max_seconds, replicas=replicas)
    denoiser.text_encoder.requires_grad_(params.train_text_encoder)
    optimizers = make_optimizers(denoiser, params.optimizer, betas=(0.9, 0.95), weight_decay=params.weight_decay)
    average = Average(denoiser, params.average_decay)
    averaged = deepcopy(denoiser).eval().requires_grad_(False)
    log, checkpoint = TrainingLog(folder / "transformer.jsonl", budget), Checkpoint(folder / "transformer.pt")
    if (state := checkpoint.load(budget, device)) is not None:
        _resume(state, denoiser, optimizers, average)
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
        norm = _optimize(denoiser, loss, optimizers, replicas)
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


def _optimize(
    denoiser: VideoDenoiser, loss: Float[Tensor, ""], optimizers: list[torch.optim.Optimizer], replicas: Replicas
) -> Float[Tensor, ""]:
    """Take one step of every optimizer and return the norm of the gradient."""
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
    # All replicas draw clips of the same shape, so that their steps take equally long, but different clips.
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
    """Move most noise levels of a batch of cards above `_OUTLINES_HIDDEN`."""
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


def _resume(
    state: Mapping[str, Any], denoiser: VideoDenoiser, optimizers: list[torch.optim.Optimizer], average: Average
) -> None:
    """Load what `_state` returned."""
    denoiser.load_state_dict(state["denoiser"])
    average.values = state["average"]
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
