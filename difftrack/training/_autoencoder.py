"""Train the causal video autoencoder on rendered clips and single frames."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from diffusers import AutoencoderKLCogVideoX
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from difftrack.training._data import ClipBatch
from difftrack.training._loop import Average, Budget, Checkpoint, TrainingLog, learning_rate
from difftrack.training._optimizers import limit_gradients, make_optimizers, set_learning_rate
from difftrack.training._precision import Precision, PrecisionWorker, compile_parts
from difftrack.training._replicas import ALONE, Replicas

__all__ = [
    "AutoencoderTraining",
    "autoencoder_loss",
    "reconstruction_psnr",
    "time_autoencoder",
    "to_model_range",
    "train_autoencoder",
]

LATENT_BATCHES = 4
"""Number of batches from which the scale of the latents is estimated."""


@dataclass(frozen=True, slots=True)
class AutoencoderTraining:
    """Training schedule of the autoencoder."""

    start_from: str | None = None
    """Pipeline folder whose weights the training starts from; null starts from random weights."""
    train_encoder: bool = True
    """False trains only the decoder: the latents do not change, so a transformer trained on them stays valid."""
    max_steps: int = 20_000
    max_seconds: float = 300.0
    """The schedule ends at whichever of the two limits comes first; 0 leaves the weights unchanged."""
    batch_size: int = 8
    """Clips per step. Every third step reuses the last clips and encodes every second frame as a single image."""
    peak_learning_rate: float = 1.5e-3
    constant_share: float = 0.2
    """Share of the schedule at the peak, before the cosine."""
    l1_weight: float = 1.0
    """Weight of the mean absolute error; the mean squared error has weight 8. 0 optimises only the PSNR."""
    kl_weight: float = 1e-6
    average_decay: float = 0.995
    precision: Precision = "bfloat16"
    channels_last: bool = True
    """Use the channels-last memory layout."""
    compile: Literal["none", "largest", "all"] = "largest"
    """Which residual blocks are compiled on CUDA: none, those at full resolution ("largest"), or all."""
    log_every: int = 50
    save_seconds: float = 60.0
    """Seconds between checkpoints."""


def to_model_range(frames: UInt8[Tensor, "clip frame row col rgb"]) -> Float[Tensor, "clip rgb frame row col"]:
    """Convert bytes to [-1, 1], channels first."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train_autoencoder(
    autoencoder: AutoencoderKLCogVideoX,
    batches: Iterator[ClipBatch],
    params: AutoencoderTraining,
    folder: Path,
    *,
    replicas: Replicas = ALONE,
) -> None:
    """Train the autoencoder in place; afterwards it holds the averaged weights and the scale of its latents.

    Loss: L1 + 8 MSE of the reconstruction, plus a small KL term that pulls the latents towards a unit Gaussian. Unless
    the encoder is frozen, `scaling_factor` in the configuration becomes 1 / (standard deviation of the latents),
    measured on the last batches.

    Args:
        autoencoder: Trained in place.
        batches: An endless iterator of clips of one shape.
        params: Schedule.
        folder: Receives `autoencoder.jsonl` and `autoencoder.pt`; an interrupted run resumes from them.
        replicas: Processes that train the same weights, each on its own batches.
    """
    device = next(autoencoder.parameters()).device
    autoencoder.train().requires_grad_(True)
    autoencoder.encoder.requires_grad_(params.train_encoder)
    budget = Budget(params.max_steps, params.max_seconds, replicas=replicas)
    optimizers = make_optimizers(autoencoder, "adamw", betas=(0.9, 0.98), weight_decay=1e-3)
    average = Average(autoencoder, params.average_decay)
    log, checkpoint = TrainingLog(folder / "autoencoder.jsonl", budget), Checkpoint(folder / "autoencoder.pt")
    if (state := checkpoint.load(budget, device)) is not None:
        autoencoder.load_state_dict(state["autoencoder"])
        optimizers[0].load_state_dict(state["optimizer"])
        average.values = state["average"]
    log.rewind()
    worker = PrecisionWorker(autoencoder, params.precision, channels_last=params.channels_last)
    if device.type == "cuda":
        compile_parts(_blocks(worker.module, params.compile), dynamic=False)
    saved, dropped = budget.seconds, torch.zeros((), dtype=torch.long, device=device)
    for videos in _steps(batches, budget, channels_last=params.channels_last):
        rate = learning_rate(budget.progress, peak=params.peak_learning_rate, constant=params.constant_share)
        set_learning_rate(optimizers, rate)
        parts = _step(worker, videos, params, optimizers[0], seed=budget.step, replicas=replicas)
        dropped += parts["dropped"]
        average.update(budget.step)
        budget.step += 1
        if budget.step % params.log_every == 0:
            terms = {name: float(part) for name, part in parts.items()}
            log.write(**terms | {"dropped": int(dropped)}, frames=videos.shape[2])
        if budget.seconds - saved > params.save_seconds:
            saved = budget.seconds
            optimizer = optimizers[0].state_dict()
            parts_of_run = {"autoencoder": autoencoder.state_dict(), "optimizer": optimizer, "average": average.values}
            checkpoint.save(budget, parts_of_run)
    average.copy_to(autoencoder)
    autoencoder.eval().requires_grad_(False)
    if params.train_encoder and budget.step:
        deviation = replicas.agree(
            _latent_deviation(autoencoder, [next(batches).frames for _ in range(LATENT_BATCHES)])
        )
        autoencoder.register_to_config(scaling_factor=round(1 / deviation, 4))
        log.write(latent_deviation=deviation)


def time_autoencoder(
    autoencoder: AutoencoderKLCogVideoX,
    frames: UInt8[Tensor, "clip frame row col rgb"],
    params: AutoencoderTraining,
    *,
    rounds: int = 3,
) -> tuple[float, float]:
    """Time the training steps: seconds of the first round (compilation included) and seconds per step after it.

    A round is two steps on whole clips and one on single frames.
    """
    optimizers = make_optimizers(autoencoder, "adamw", betas=(0.9, 0.98), weight_decay=1e-3)
    worker = PrecisionWorker(autoencoder.train(), params.precision, channels_last=params.channels_last)
    if frames.is_cuda:
        compile_parts(_blocks(worker.module, params.compile), dynamic=False)
    seconds = []
    for _ in range(1 + rounds):
        start = time.monotonic()
        budget = Budget(max_steps=3, max_seconds=1e9)
        for videos in _steps(iter([ClipBatch(frames, ())] * 3), budget, channels_last=params.channels_last):
            _step(worker, videos, params, optimizers[0], seed=0, replicas=ALONE)
            budget.step += 1
        if frames.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    return seconds[0], sum(seconds[1:]) / (3 * rounds)


def _step(
    worker: PrecisionWorker,
    videos: Tensor,
    params: AutoencoderTraining,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int,
    replicas: Replicas,
) -> dict[str, Float[Tensor, ""]]:
    """Take one optimizer step and return the loss terms to log."""
    generator = torch.Generator(videos.device).manual_seed(seed)
    loss, parts = autoencoder_loss(worker, videos, params, generator)
    loss.backward()  # type: ignore[no-untyped-call]
    worker.hand_over()
    replicas.average_gradients(worker.master.parameters())
    parts["dropped"] = ~limit_gradients(worker.master.parameters()).isfinite()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    worker.refresh()
    return parts


def autoencoder_loss(
    worker: PrecisionWorker,
    videos: Float[Tensor, "clip rgb frame row col"],
    params: AutoencoderTraining,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the loss and the detached terms to log."""
    module = cast(AutoencoderKLCogVideoX, worker.module)
    with worker.context():
        posterior = module.encode(videos.to(worker.dtype)).latent_dist
        restored = module.decode(posterior.sample(generator)).sample
    error = restored.float() - videos
    kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    square = error.square().mean()
    loss = params.l1_weight * error.abs().mean() + 8 * square + params.kl_weight * kl
    return loss, {"loss": loss.detach(), "psnr_db": -10 * torch.log10(square.detach() / 4), "kl": kl.detach()}


@torch.no_grad()
def reconstruction_psnr(
    autoencoder: AutoencoderKLCogVideoX, clips: UInt8[Tensor, "clip frame row col rgb"], *, frames_alone: bool
) -> float:
    """Mean PSNR over clips, in dB, when the posterior mode is decoded."""
    dtype = next(autoencoder.parameters()).dtype
    ratios = []
    for clip in clips:
        video = to_model_range(clip[None])
        video = video[0].transpose(0, 1)[:, :, None] if frames_alone else video
        mode = autoencoder.encode(video.to(dtype)).latent_dist.mode()
        restored = autoencoder.decode(mode).sample.float().clamp(-1, 1)
        ratios.append(-10 * torch.log10((restored - video).square().mean() / 4))
    return float(torch.stack(ratios).mean())


def _steps(batches: Iterator[ClipBatch], budget: Budget, *, channels_last: bool) -> Iterator[Tensor]:
    """Yield training videos until the budget is spent; every third step uses single frames of the previous clips."""
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    videos: Tensor | None = None
    while budget.look() < 1:
        alone = budget.step % 3 == 2
        if videos is None or not alone:
            videos = to_model_range(next(batches).frames)
        given = videos[:, :, ::2].transpose(1, 2).flatten(0, 1)[:, :, None] if alone else videos
        yield given.contiguous(memory_format=layout)


def _blocks(autoencoder: nn.Module, which: Literal["none", "largest", "all"]) -> list[nn.Module]:
    """Select the residual blocks to compile."""
    levels: list[nn.Module] = [*autoencoder.encoder.down_blocks, *autoencoder.decoder.up_blocks]  # type: ignore[union-attr]
    choose: dict[str, Callable[[], list[nn.Module]]] = {
        "none": list,
        "largest": lambda: [levels[0], levels[-1]],
        "all": lambda: levels,
    }
    return [block for level in choose[which]() for block in level.resnets]  # type: ignore[union-attr]


def _latent_deviation(autoencoder: AutoencoderKLCogVideoX, clips: list[Tensor]) -> float:
    with torch.no_grad():
        latents = [autoencoder.encode(to_model_range(frames)).latent_dist.mode() for frames in clips]
    return float(torch.cat(latents).std())
