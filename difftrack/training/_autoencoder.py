"""Train the causal video autoencoder on rendered clips and single frames."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX
from jaxtyping import Float, UInt8
from torch import Tensor

from difftrack.training._data import ClipStream
from difftrack.training._loop import Average, TrainingLog, learning_rate

__all__ = ["AutoencoderTraining", "to_model_range", "train_autoencoder"]


@dataclass(frozen=True, slots=True)
class AutoencoderTraining:
    """Schedule of the autoencoder's training."""

    max_steps: int = 4000
    max_seconds: float = 300.0
    """The schedule ends at whichever of the two limits comes first."""
    batch_size: int = 8
    """Clips per step; every third step takes single frames instead."""
    peak_learning_rate: float = 1.5e-3
    kl_weight: float = 1e-6
    average_decay: float = 0.995
    log_every: int = 100


def to_model_range(frames: UInt8[Tensor, "clip frame row col rgb"]) -> Float[Tensor, "clip rgb frame row col"]:
    """Bytes to [-1, 1], channels first."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train_autoencoder(
    autoencoder: AutoencoderKLCogVideoX, stream: ClipStream, params: AutoencoderTraining, log_path: Path
) -> None:
    """Train in place and leave the averaged weights and the latents' scale in the autoencoder.

    Loss: L1 + 8 MSE of the reconstruction, plus a slight pull of the latents to a unit Gaussian. The configuration's
    `scaling_factor` becomes one over the latents' deviation on the last batches.
    """
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=1e-3)
    average = Average(autoencoder, params.average_decay)
    log = TrainingLog(log_path)
    batches = stream.batches(params.batch_size, "whole", 17)
    device = next(autoencoder.parameters()).device
    start, step, progress = _clock(device), 0, 0.0
    while progress < 1:
        batch = to_model_range(next(batches).frames)
        if step % 3 == 2:
            batch = batch[:, :, ::2].transpose(1, 2).flatten(0, 1)[:, :, None]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, peak=params.peak_learning_rate)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            posterior = autoencoder.encode(batch).latent_dist
            restored = autoencoder.decode(posterior.sample()).sample
        error = restored.float() - batch
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = error.abs().mean() + 8 * error.square().mean() + params.kl_weight * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        if step % params.log_every == 0:
            psnr = -10 * torch.log10(error.detach().square().mean() / 4)
            log.write(
                step=step,
                loss=float(loss.detach()),
                psnr_db=float(psnr),
                kl=float(kl.detach()),
                single=batch.shape[2] == 1,
            )
        step += 1
        progress = max(step / params.max_steps, (_clock(device) - start) / params.max_seconds)
    average.copy_to(autoencoder)
    autoencoder.eval()
    deviation = _latent_deviation(autoencoder, [to_model_range(next(batches).frames) for _ in range(4)])
    autoencoder.register_to_config(scaling_factor=round(1 / deviation, 4))
    log.write(step=step, latent_deviation=deviation)


def _latent_deviation(autoencoder: AutoencoderKLCogVideoX, batches: list[Tensor]) -> float:
    device = next(autoencoder.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        latents = [autoencoder.encode(batch).latent_dist.mode().float() for batch in batches]
    return float(torch.cat(latents).std())


def _clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
