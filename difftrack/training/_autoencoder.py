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
"""Batches from which the scale of the latents is taken."""


@dataclass(frozen=True, slots=True)
class AutoencoderTraining:
    """Schedule of the autoencoder's training."""

    start_from: str | None = None
    """Pipeline folder whose weights are trained on; null starts from random ones."""
    train_encoder: bool = True
    """False trains the decoder alone: the latents, and what a transformer has learnt of them, stay as they are."""
    max_steps: int = 20_000
    max_seconds: float = 300.0
    """The schedule ends at whichever of the two limits comes first; 0 leaves the weights as they are."""
    batch_size: int = 8
    """Clips per step; every third step encodes every second frame of the last clips alone."""
    peak_learning_rate: float = 1.5e-3
    constant_share: float = 0.2
    """Share of the schedule at the peak, before the cosine."""
    l1_weight: float = 1.0
    """Of the mean absolute error beside 8 times the squared one; 0 trains for the reconstruction's PSNR alone."""
    kl_weight: float = 1e-6
    average_decay: float = 0.995
    precision: Precision = "bfloat16"
    channels_last: bool = True
    """Keep the channels of a pixel side by side in memory."""
    compile: Literal["none", "largest", "all"] = "largest"
    """Which residual blocks are compiled, on CUDA: those at full resolution, or all."""
    log_every: int = 50
    save_seconds: float = 60.0
    """Between checkpoints."""


def to_model_range(frames: UInt8[Tensor, "clip frame row col rgb"]) -> Float[Tensor, "clip rgb frame row col"]:
    """Bytes to [-1, 1], channels first."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train_autoencoder(
    autoencoder: AutoencoderKLCogVideoX,
    batches: Iterator[ClipBatch],
    params: AutoencoderTraining,
    folder: Path,
    *,
    replicas: Replicas = ALONE,
) -> None:
    """Train in place and leave the averaged weights and the latents' scale in the autoencoder.

    Loss: L1 + 8 MSE of the reconstruction, plus a slight pull of the latents to a unit Gaussian. The configuration's
    `scaling_factor` becomes one over the latents' deviation on some last batches, unless the encoder is frozen.

    Args:
        autoencoder: Trained in place.
        batches: Clips of one shape, without end.
        params: Schedule.
        folder: Receives `autoencoder.jsonl` and `autoencoder.pt`, from which an interrupted run goes on.
        replicas: Processes that train the same weights, each with batches of its own.
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
            said = {name: float(part) for name, part in parts.items()}
            log.write(**said | {"dropped": int(dropped)}, frames=videos.shape[2])
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
    """Seconds of the first round of steps (compilation included), and seconds per step thereafter.

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
    """One step of the optimizer; gives what is logged of the loss."""
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
    """The loss, and what is logged of it."""
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
    """Mean over clips of the PSNR of decoded posterior modes, in dB."""
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
    """Videos to train on, until the budget is spent: every third step takes single frames of the last clips."""
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    videos: Tensor | None = None
    while budget.look() < 1:
        alone = budget.step % 3 == 2
        if videos is None or not alone:
            videos = to_model_range(next(batches).frames)
        given = videos[:, :, ::2].transpose(1, 2).flatten(0, 1)[:, :, None] if alone else videos
        yield given.contiguous(memory_format=layout)


def _blocks(autoencoder: nn.Module, which: Literal["none", "largest", "all"]) -> list[nn.Module]:
    """Residual blocks to compile."""
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
