"""A pool of encoded clips: rendered and encoded once, drawn from many times."""

import time
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLCogVideoX
from jaxtyping import Float, Int
from torch import Tensor
from transformers import T5Tokenizer

from difftrack.training._autoencoder import to_model_range
from difftrack.training._data import ClipBatch, ClipStream

__all__ = ["LatentPool", "PoolParams", "encode_batch", "fill_pools", "tokenize"]


@dataclass(frozen=True, slots=True)
class PoolParams:
    """How many clips are encoded before the transformer's training."""

    whole: int = 24_000
    """Clips of 17 frames, encoded with temporal compression."""
    apart: int = 16_000
    """Sequences of 13 frames, each encoded alone."""
    long: int = 4_000
    """Clips of 49 frames, encoded with temporal compression."""
    max_seconds: float = 200.0


@dataclass
class LatentPool:
    """Scaled latents and prompts of clips of one length."""

    latents: Float[Tensor, "clip latent_frame channel row col"]
    tokens: Int[Tensor, "clip text_token"]
    size: int = 0

    def append(self, latents: Tensor, tokens: Tensor) -> None:
        """Add clips while there is room."""
        count = min(len(latents), len(self.latents) - self.size)
        self.latents[self.size : self.size + count] = latents[:count]
        self.tokens[self.size : self.size + count] = tokens[:count]
        self.size += count

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clips at random, with replacement."""
        chosen = torch.randint(self.size, (count,), generator=generator, device=self.latents.device)
        return self.latents[chosen].float(), self.tokens[chosen]


def tokenize(tokenizer: T5Tokenizer, prompts: tuple[str, ...], length: int, device: torch.device) -> Tensor:
    """Token numbers padded to `length`, as the pipeline pads them."""
    encoded = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: Tensor = encoded.input_ids.to(device)
    return tokens


@torch.no_grad()
def encode_batch(
    autoencoder: AutoencoderKLCogVideoX, batch: ClipBatch, *, frames_alone: bool
) -> Float[Tensor, "clip latent_frame channel row col"]:
    """Scaled posterior modes of a batch of clips."""
    frames = to_model_range(batch.frames)
    clips, _, num_frames = frames.shape[:3]
    if frames_alone:
        frames = frames.transpose(1, 2).flatten(0, 1)[:, :, None]
    with torch.autocast(frames.device.type, dtype=torch.bfloat16):
        latents = autoencoder.encode(frames).latent_dist.mode()
    if frames_alone:
        latents = latents[:, :, 0].unflatten(0, (clips, num_frames))
    else:
        latents = latents.transpose(1, 2)
    scaled: Tensor = latents * autoencoder.config.scaling_factor
    return scaled


def fill_pools(
    autoencoder: AutoencoderKLCogVideoX,
    stream: ClipStream,
    tokenizer: T5Tokenizer,
    params: PoolParams,
    *,
    text_length: int,
    device: torch.device,
) -> dict[str, LatentPool]:
    """Render and encode until the pools are full or the time is up, all pools growing at the same rate."""
    start = time.monotonic()
    wanted = {"whole": (params.whole, 17, 16), "apart": (params.apart, 13, 16), "long": (params.long, 49, 4)}
    batches, pools = {}, {}
    for name, (count, num_frames, batch_size) in wanted.items():
        batches[name] = stream.batches(batch_size, "apart" if name == "apart" else "whole", num_frames)
        latent_frames = num_frames if name == "apart" else (num_frames - 1) // 4 + 1
        channels = autoencoder.config.latent_channels
        rows, cols = autoencoder.config.sample_height // 4, autoencoder.config.sample_width // 4
        pools[name] = LatentPool(
            torch.empty((count, latent_frames, channels, rows, cols), dtype=torch.bfloat16, device=device),
            torch.empty((count, text_length), dtype=torch.long, device=device),
        )
    while time.monotonic() - start < params.max_seconds:
        name = min(pools, key=lambda pool: pools[pool].size / wanted[pool][0])
        if pools[name].size >= wanted[name][0]:
            break
        batch = next(batches[name])
        latents = encode_batch(autoencoder, batch, frames_alone=name == "apart")
        pools[name].append(latents.to(torch.bfloat16), tokenize(tokenizer, batch.prompts, text_length, device))
    return pools
