"""Variants of diffusers' pipelines that are reproducible.

The stock CogVideoX image-to-video pipeline draws new image latents from the posterior for each sample. A capture must
pass the transformer the same inputs as sampling, so here they are the posterior's mode in both.
"""

from typing import Any

import torch
from diffusers import CogVideoXImageToVideoPipeline
from jaxtyping import Float
from torch import Tensor

__all__ = ["CogVideoXEveryFramePipeline", "CogVideoXFirstFramePipeline"]


class CogVideoXFirstFramePipeline(CogVideoXImageToVideoPipeline):
    """CogVideoX image to video: the image's latents at the first latent frame, zeros at the others."""

    @torch.no_grad()
    def image_latents(
        self,
        image: Float[Tensor, "batch rgb height width"],
        num_latent_frames: int,
        *,
        frames_alone: bool = False,
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """Compute the conditioning channels for an image in [-1, 1].

        Args:
            image: Image at the size of the clip.
            num_latent_frames: Number of the clip's latent frames.
            frames_alone: Whether each frame of the clip is encoded by itself; has no effect here.
        """
        first = self._encode(image.unsqueeze(2))
        return torch.cat([first, first.new_zeros(len(first), num_latent_frames - 1, *first.shape[2:])], dim=1)

    def prepare_latents(self, image: Tensor, *others: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return the given initial latents of sampling, and the conditioning channels of the image."""
        latents: Tensor = others[-1]
        return latents, self.image_latents(image, latents.shape[1]).to(latents.dtype)

    def _encode(self, video: Tensor) -> Tensor:
        scale = self.vae.config.scaling_factor
        latents: Tensor = self.vae.encode(video.to(self.vae.dtype)).latent_dist.mode()
        scaled: Tensor = latents * (1 / scale if self.vae.config.invert_scale_latents else scale)
        return scaled.transpose(1, 2)


class CogVideoXEveryFramePipeline(CogVideoXFirstFramePipeline):
    """CogVideoX-2B image to video by NimVideo: the image repeated over all frames and encoded as a clip."""

    @torch.no_grad()
    def image_latents(
        self, image: Float[Tensor, "batch rgb height width"], num_latent_frames: int, *, frames_alone: bool = False
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """Compute the conditioning channels for an image in [-1, 1]; see `CogVideoXFirstFramePipeline`."""
        if frames_alone:
            return self._encode(image.unsqueeze(2)).expand(-1, num_latent_frames, -1, -1, -1)
        num_frames = (num_latent_frames - 1) * self.vae_scale_factor_temporal + 1
        return self._encode(image.unsqueeze(2).expand(-1, -1, num_frames, -1, -1))
