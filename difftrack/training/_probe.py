"""Matching accuracy per layer on fixed clips and fixed noise, measured again and again while a network is trained."""

from collections.abc import Sequence
from functools import cache

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor
from transformers import T5Tokenizer

from difftrack.training._accuracy import ProbeClip, layer_hits
from difftrack.training._latents import encode_batch, tokenize
from difftrack.training._networks import VideoDenoiser

__all__ = ["Probe", "rotary_tables"]


class Probe:
    """Measures matching accuracy per layer, whole and with frames alone, easy and hard apart.

    Args:
        clips: Of one size and length.
        autoencoder: Encodes them once.
        tokenizer: Reads their prompts.
        text_length: Tokens per prompt.
    """

    def __init__(
        self, clips: Sequence[ProbeClip], autoencoder: AutoencoderKLCogVideoX, tokenizer: T5Tokenizer, text_length: int
    ) -> None:
        self._clips = clips
        self._temporal_stride = int(autoencoder.config.temporal_compression_ratio)
        self._autoencoder_stride = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        frames = torch.stack([clip.frames for clip in clips])
        views = {"whole": (frames, False), "apart": (frames[:, :: self._temporal_stride], True)}
        self._latents = {
            name: torch.cat([encode_batch(autoencoder, clip[None], frames_alone=alone).float() for clip in view])
            for name, (view, alone) in views.items()
        }
        generator = torch.Generator(frames.device).manual_seed(0)
        self._noise = torch.randn(self._latents["whole"].shape, generator=generator, device=frames.device)
        self._tokens = tokenize(tokenizer, tuple(clip.prompt for clip in clips), text_length, frames.device)

    @torch.no_grad()
    def accuracy(
        self, denoiser: VideoDenoiser, scheduler: CogVideoXDDIMScheduler, timestep: int
    ) -> dict[str, dict[str, list[float]]]:
        """Share of visible points matched within one token: view -> split -> layers."""
        text = denoiser.embed(self._tokens)
        times = torch.tensor([timestep])
        result: dict[str, dict[str, list[float]]] = {}
        for view, latents in self._latents.items():
            _, num_latent_frames, _, rows, cols = latents.shape
            stride_px = self._autoencoder_stride * int(denoiser.transformer.config.patch_size)
            hits, totals = layer_hits(
                denoiser.transformer,
                scheduler.add_noise(latents, self._noise, times),
                self._clips,
                text,
                rotary_tables(denoiser.transformer, num_latent_frames, rows, cols),
                timestep=timestep,
                frames=range(0, num_latent_frames * self._temporal_stride, self._temporal_stride),
                stride_px=stride_px,
                threshold_px=float(stride_px),
            )
            result[view] = {}
            for split in dict.fromkeys(clip.spec.split for clip in self._clips):
                own = [number for number, clip in enumerate(self._clips) if clip.spec.split == split]
                shares = hits[own].sum(axis=0) / max(int(totals[own].sum()), 1)
                result[view][split] = [round(float(share), 4) for share in shares]
        return result


def rotary_tables(
    transformer: CogVideoXTransformer3DModel, num_latent_frames: int, rows: int, cols: int
) -> tuple[Tensor, Tensor]:
    """Rotary tables for latents of this size, as the stock pipeline prepares them."""
    config, device = transformer.config, next(transformer.parameters()).device
    patch = config.patch_size
    sample = (config.sample_width // patch, config.sample_height // patch)
    return _rotary_tables(config.attention_head_dim, sample, (num_latent_frames, rows // patch, cols // patch), device)


@cache
def _rotary_tables(
    num_channels: int, sample: tuple[int, int], grid: tuple[int, int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    num_latent_frames, rows, cols = grid
    cos, sin = get_3d_rotary_pos_embed(
        embed_dim=num_channels,
        crops_coords=get_resize_crop_region_for_grid((rows, cols), *sample),
        grid_size=(rows, cols),
        temporal_size=num_latent_frames,
        device=device,
    )
    return cos, sin
