"""Tables of rotary position embeddings, computed as the unmodified pipeline computes them."""

from functools import cache

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor

__all__ = ["rotary_tables"]


def rotary_tables(
    transformer: CogVideoXTransformer3DModel, num_latent_frames: int, rows: int, cols: int
) -> tuple[Tensor, Tensor]:
    """Compute the rotary tables for latents of this size, as the unmodified pipeline does."""
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
