"""The pipeline that samples."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from difftrack_example.models import ToyAutoencoder, ToyTransformer3DModel

__all__ = ["ToyPipeline"]


class ToyPipeline(DiffusionPipeline):
    """Flow matching with guidance; prompts are passed as embeddings."""

    def __init__(
        self, transformer: ToyTransformer3DModel, vae: ToyAutoencoder, scheduler: FlowMatchEulerDiscreteScheduler
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor,
        latents: Tensor,
        num_inference_steps: int,
        guidance_scale: float = 1.0,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        **_: Any,
    ) -> SimpleNamespace:
        """Sample from noise [1, latent_frame, channel, row, col]; return frames [1, frame, row, col, rgb] in [0, 1]."""
        self.scheduler.set_timesteps(num_inference_steps)
        for index, timestep in enumerate(self.scheduler.timesteps):
            read = latents.to(self.transformer.dtype)
            velocity = self.transformer(read, timestep.expand(1), prompt_embeds)[0]
            if guidance_scale > 1:
                without = self.transformer(read, timestep.expand(1), negative_prompt_embeds)[0]
                velocity = without + guidance_scale * (velocity - without)
            latents = self.scheduler.step(velocity.float(), timestep, latents, return_dict=False)[0]
            if callback_on_step_end is not None:
                callback_on_step_end(self, index, timestep, {"latents": latents})
        video = self.vae.decode(latents.to(self.vae.dtype).transpose(1, 2))
        return SimpleNamespace(frames=(video.permute(0, 2, 3, 4, 1).float() / 2 + 0.5).cpu().numpy())
