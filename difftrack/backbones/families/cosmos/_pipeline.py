"""Cosmos-Predict2 with reproducible conditioning: the stock pipeline draws the image's latents at random."""

from typing import Any

import torch
from diffusers import Cosmos2VideoToWorldPipeline
from torch import Tensor

__all__ = ["CosmosFirstFramePipeline"]


class CosmosFirstFramePipeline(Cosmos2VideoToWorldPipeline):
    """Cosmos-Predict2 from an image, whose latents are the mode of their distribution, at the first latent frame."""

    @torch.no_grad()
    def image_latents(self, pixels: Tensor) -> Tensor:
        """Scaled latents `[1, channel, 1, row, col]` of an image `[1, rgb, 1, height, width]` in [-1, 1]."""
        config = self.vae.config
        latents: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        mean, std = (
            latents.new_tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
        )
        return (latents - mean) / std

    def prepare_latents(self, video: Tensor, *others: Any, **more: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """As the stock method, for given noise; the conditioning's later frames, which are masked, are blank."""
        guided, latents = others[5], others[9].to(torch.float32) * self.scheduler.config.sigma_max
        image = self.image_latents(video[:, :, :1])
        conditioning = torch.cat(
            [image, image.new_zeros(*latents.shape[:2], latents.shape[2] - 1, *image.shape[3:])], 2
        )
        indicator = latents.new_zeros(1, 1, latents.shape[2], 1, 1)
        indicator[:, :, :1] = 1
        mask = indicator.expand(len(latents), -1, -1, *latents.shape[3:])
        unconditional = (indicator, mask) if guided else (None, None)
        return latents, conditioning, indicator, unconditional[0], mask, unconditional[1]
