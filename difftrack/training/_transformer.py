"""Train the transformer and its text encoder on a pool of encoded clips."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from jaxtyping import Float
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from difftrack.training._accuracy import ProbeClip, layer_accuracy
from difftrack.training._data import ClipBatch
from difftrack.training._latents import LatentPool, encode_batch, tokenize
from difftrack.training._loop import Average, Checkpoint, TrainingLog, learning_rate

__all__ = ["Denoiser", "TransformerTraining", "rotary_tables", "train_transformer"]


@dataclass(frozen=True, slots=True)
class TransformerTraining:
    """Schedule of the transformer's training."""

    max_steps: int = 14_000
    max_seconds: float = 1000.0
    """The schedule ends at whichever of the two limits comes first."""
    whole_batch: int = 64
    apart_batch: int = 24
    """Also of the long clips, which have as many latent frames."""
    whole_share: float = 0.4
    apart_share: float = 0.45
    """The rest of the steps takes long clips."""
    uniform_levels: float = 0.3
    """Share of noise levels drawn uniformly; the rest is logit-normal, mostly in the middle."""
    drop_prompt: float = 0.1
    """Share of prompts replaced by the empty one, for guidance; half of them for sequences of single frames."""
    peak_learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    average_decay: float = 0.999
    log_every: int = 50
    probe_every: int = 1000
    checkpoint_every: int = 2000
    seed: int = 0


class Denoiser(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, transformer: CogVideoXTransformer3DModel, text_encoder: T5EncoderModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def embed(self, tokens: Tensor) -> Float[Tensor, "clip text_token channel"]:
        """Prompt embeddings, as the pipeline makes them: padding takes part."""
        embedded: Tensor = self.text_encoder(tokens)[0]
        return embedded

    def forward(self, noisy: Tensor, tokens: Tensor, timesteps: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Predict the velocity."""
        predicted: Tensor = self.transformer(
            noisy, self.embed(tokens), timesteps, image_rotary_emb=rotary, return_dict=False
        )[0]
        return predicted


def rotary_tables(
    transformer: CogVideoXTransformer3DModel, num_latent_frames: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rotary tables at the backbone's own resolution, as the stock pipeline prepares them."""
    config = transformer.config
    grid = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
    cos, sin = get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim,
        crops_coords=((0, 0), grid),
        grid_size=grid,
        temporal_size=num_latent_frames,
        device=device,
    )
    return cos, sin


class Probe:
    """Measures matching accuracy per layer on fixed clips and fixed noise, whole and with frames alone."""

    def __init__(
        self, clips: Sequence[ProbeClip], autoencoder: AutoencoderKLCogVideoX, tokenizer: T5Tokenizer, text_length: int
    ) -> None:
        device = next(autoencoder.parameters()).device
        self._clips = clips
        batch = ClipBatch(torch.stack([clip.frames for clip in clips]).to(device), tuple(c.prompt for c in clips), ())
        sparse = ClipBatch(batch.frames[:, ::4].contiguous(), batch.prompts, ())
        self._latents = {
            "whole": encode_batch(autoencoder, batch, frames_alone=False).float(),
            "apart": encode_batch(autoencoder, sparse, frames_alone=True).float(),
        }
        generator = torch.Generator(device).manual_seed(0)
        self._noise = torch.randn(self._latents["whole"].shape, generator=generator, device=device)
        self._tokens = tokenize(tokenizer, batch.prompts, text_length, device)

    def accuracy(self, denoiser: Denoiser, scheduler: CogVideoXDDIMScheduler, timestep: int) -> dict[str, list[float]]:
        """Share of points within one token per layer, for both ways of encoding."""
        text = denoiser.embed(self._tokens)
        times = torch.tensor([timestep])
        result = {}
        for name, latents in self._latents.items():
            noisy = scheduler.add_noise(latents, self._noise, times)
            rotary = rotary_tables(denoiser.transformer, latents.shape[1], latents.device)
            accuracy = layer_accuracy(
                denoiser.transformer, noisy, self._clips, text, rotary, timestep=timestep, frames=range(0, 17, 4)
            )
            result[name] = [round(share, 4) for share in accuracy]
        return result


def train_transformer(
    denoiser: Denoiser,
    pools: dict[str, LatentPool],
    scheduler: CogVideoXDDIMScheduler,
    params: TransformerTraining,
    *,
    probe: Probe,
    empty_prompt: Tensor,
    folder: Path,
    save: Callable[[Denoiser], None],
) -> Denoiser:
    """Train in place; returns a copy with the averaged weights.

    Loss: mean squared error of the velocity (v-prediction) at random noise levels.

    Args:
        denoiser: Trained in place.
        pools: `whole`, `apart` and `long`, see `PoolParams`.
        scheduler: Its noise levels are used.
        params: Schedule.
        probe: Measured every `params.probe_every` steps.
        empty_prompt: Tokens of the empty prompt.
        folder: Receives `transformer.jsonl` and `transformer.pt`, from which an interrupted run goes on.
        save: Given the averaged weights at every checkpoint.
    """
    device = empty_prompt.device
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=params.weight_decay)
    average = Average(denoiser, params.average_decay)
    averaged = deepcopy(denoiser).eval().requires_grad_(False)
    log, checkpoint = TrainingLog(folder / "transformer.jsonl"), Checkpoint(folder / "transformer.pt")
    generator = torch.Generator(device).manual_seed(params.seed)
    step, spent = _resume(checkpoint, denoiser, optimizer, average, device)
    if device.type == "cuda":
        for block in denoiser.transformer.transformer_blocks:
            block.compile(dynamic=False)
    start = time.monotonic() - spent
    progress = max(step / params.max_steps, spent / params.max_seconds)
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, peak=params.peak_learning_rate)
        latents, tokens = _draw(pools, params, empty_prompt, generator)
        loss = _loss(denoiser, scheduler, latents, tokens, params, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        step += 1
        if step % params.log_every == 0:
            log.write(step=step, loss=float(loss.detach()), gradient=float(norm), latent_frames=latents.shape[1])
        progress = max(step / params.max_steps, (time.monotonic() - start) / params.max_seconds)
        if step % params.probe_every == 0 or progress >= 1:
            average.copy_to(averaged)
            log.write(step=step, timestep=19, accuracy=probe.accuracy(averaged, scheduler, 19))
        if step % params.checkpoint_every == 0:
            spent = time.monotonic() - start
            checkpoint.save(step, _state(denoiser, optimizer, average, spent))
            average.copy_to(averaged)
            save(averaged)
    average.copy_to(averaged)
    for timestep in range(99, 1000, 100):
        log.write(step=step, timestep=timestep, accuracy=probe.accuracy(averaged, scheduler, timestep))
    return averaged


def _draw(
    pools: dict[str, LatentPool], params: TransformerTraining, empty_prompt: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    device = empty_prompt.device
    ticket = float(torch.rand((), generator=generator, device=device))
    name = "whole" if ticket < params.whole_share else "long"
    if params.whole_share <= ticket < params.whole_share + params.apart_share:
        name = "apart"
    count = params.whole_batch if name == "whole" else params.apart_batch
    latents, tokens = pools[name].draw(count, generator)
    dropped = torch.rand((count, 1), generator=generator, device=device) < (
        0.5 if name == "apart" else params.drop_prompt
    )
    return latents, torch.where(dropped, empty_prompt, tokens)


def _loss(
    denoiser: Denoiser,
    scheduler: CogVideoXDDIMScheduler,
    latents: Tensor,
    tokens: Tensor,
    params: TransformerTraining,
    generator: torch.Generator,
) -> Tensor:
    device = latents.device
    count = len(latents)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    middle = torch.sigmoid(torch.randn(count, generator=generator, device=device))
    uniform = torch.rand(count, generator=generator, device=device)
    choose = torch.rand(count, generator=generator, device=device) < params.uniform_levels
    timesteps = (torch.where(choose, uniform, middle) * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    rotary = rotary_tables(denoiser.transformer, latents.shape[1], device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        predicted = denoiser(noisy, tokens, timesteps, rotary)
    return (predicted.float() - velocity).square().mean()


def _state(denoiser: Denoiser, optimizer: torch.optim.Optimizer, average: Average, spent: float) -> dict[str, dict]:  # type: ignore[type-arg]
    return {
        "denoiser": denoiser.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values,
        "clock": {"spent": spent},
    }


def _resume(
    checkpoint: Checkpoint, denoiser: Denoiser, optimizer: torch.optim.Optimizer, average: Average, device: torch.device
) -> tuple[int, float]:
    state = checkpoint.load(device)
    if state is None:
        return 0, 0.0
    denoiser.load_state_dict(state["denoiser"])
    optimizer.load_state_dict(state["optimizer"])
    average.values = state["average"]
    return state["step"], state["clock"]["spent"]
