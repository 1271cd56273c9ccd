"""Wan 2.1 and 2.2 text to video: self-attention over video alone, text through cross-attention, flow matching."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from difftrack.backbones._backbone import Backbone, PromptEmbedding
from difftrack.backbones._schedule import FlowSchedule

__all__ = ["WanBackbone"]


class WanBackbone(Backbone):
    """A Wan pipeline folder with one transformer."""

    text_position = "none"
    channels_before_frames = True

    @property
    def patch_size(self) -> int:
        return int(self.transformer.config.patch_size[1])

    @property
    def spatial_stride(self) -> int:
        return int(self.vae.config.scale_factor_spatial)

    @property
    def temporal_stride(self) -> int:
        return int(self.vae.config.scale_factor_temporal)

    def attention_modules(self) -> Sequence[nn.Module]:
        return [block.attn1 for block in self.transformer.blocks]

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self._warn_where_cut(prompt)
        embeds, _ = self.components.text_pipeline().encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
            device=self.device,
            dtype=self.components.dtype,
        )
        self.components.release_text()
        return PromptEmbedding(embeds[0], mask=torch.ones(embeds.shape[1], dtype=torch.bool, device=embeds.device))

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[:0]

    def schedule(self, num_inference_steps: int) -> FlowSchedule:
        scheduler = self._sampling_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        return FlowSchedule(
            scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:num_inference_steps]
        )

    def _timestep_input(self, timestep: Shaped[Tensor, ""], num_tokens: int) -> Tensor:
        """Wan 2.2 TI2V reads a timestep per token."""
        per_token = self.components.folder.settings.get("expand_timesteps", False)
        return timestep.expand(1, num_tokens) if per_token else timestep.expand(1)

    def _transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        return {"encoder_hidden_states": prompt.tokens.unsqueeze(0)}

    def _sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }

    def _encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        latents: Tensor = self.vae.encode(videos).latent_dist.mode()
        mean, std = (latents.new_tensor(values).view(-1, 1, 1, 1) for values in self._latent_statistics())
        return ((latents - mean) / std).transpose(1, 2)

    def _latent_statistics(self) -> tuple[list[float], list[float]]:
        return self.vae.config.latents_mean, self.vae.config.latents_std
