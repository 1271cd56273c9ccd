"""Autoencoders that several families share: how their latents are scaled."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.backbones._backbone import Backbone

__all__ = ["ScaledLatentsBackbone", "WanLatentsBackbone"]


class ScaledLatentsBackbone(Backbone):
    """A family whose autoencoder's latents are multiplied by one number of its config, `scaling_factor`."""

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        latents: Tensor = self.vae.encode(videos).latent_dist.mode() * self.vae_config.scaling_factor
        return latents.transpose(1, 2)


class WanLatentsBackbone(Backbone):
    """A family with Wan's autoencoder, whose latents have a mean and a standard deviation per channel."""

    channels_before_frames = True
    spatial_stride_key = "scale_factor_spatial"
    temporal_stride_key = "scale_factor_temporal"

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        latents: Tensor = self.vae.encode(videos).latent_dist.mode()
        mean, std = self.latent_statistics(latents)
        return ((latents - mean) / std).transpose(1, 2)

    def latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[channel, 1, 1, 1]`, on the device and in the dtype of `like`."""
        config = self.vae_config
        mean, std = (
            torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std
