"""Mochi: joint attention over video and the prompt's valid tokens, and a time that runs from noise 0 to data 1."""

from typing import Any

import numpy as np
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._masked_text import MaskedTextBackbone
from difftrack.backbones._schedule import FlowSchedule
from difftrack.geometry import TokenGrid

__all__ = ["MochiBackbone"]

_THRESHOLD_NOISE = 0.025
"""Threshold where its schedule turns from linear to quadratic; a literal in the stock pipeline."""


class MochiBackbone(MaskedTextBackbone):
    """A Mochi pipeline. Padded text is left out of its attention, so the sequence is as long as the prompt."""

    text_position = "last"
    samples_in_own_dtype = True

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[prompt.mask]

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        """The scheduler's sigma is the share of data here; its `scale_noise` takes it for the share of noise."""
        if num_inference_steps < 2:
            raise BackboneError(f"num_inference_steps is {num_inference_steps}; {self.name} needs at least 2")
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(sigmas=np.array(linear_quadratic_schedule(num_inference_steps, _THRESHOLD_NOISE)))
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=1 - scheduler.sigmas[:-1])

    def timestep_input(self, timestep: Tensor, grid: TokenGrid) -> Tensor:
        return timestep.expand(1).to(self.components.dtype)

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        config: Any = self.vae_config
        latents: Tensor = self.vae.encode(videos).latent_dist.mode()
        if config.latents_mean is not None and config.latents_std is not None:
            mean, std = (latents.new_tensor(v).view(-1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
            latents = (latents - mean) / std
        scaled: Tensor = latents * config.scaling_factor
        return scaled.transpose(1, 2)
