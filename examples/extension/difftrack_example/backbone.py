"""What DiffTrack needs to know about the family: where its attention is, and what its transformer reads."""

from typing import Any

import torch
from torch import Tensor

from difftrack.backbones import Backbone, FlowSchedule, PromptEmbedding
from difftrack.geometry import TokenGrid

__all__ = ["ToyBackbone"]


class ToyBackbone(Backbone):
    """A backbone that runs a pipeline of `difftrack_example`."""

    text_position = "first"
    channels_before_frames = False
    layers_key = ("blocks",)
    attention_key = "attention"
    text_channels_key = "text_channels"
    spatial_stride_key = "spatial_stride"
    temporal_stride_key = "temporal_stride"

    @property
    def text_length(self) -> int:
        return int(self.transformer_config.text_length)

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        """Embed letters, because there is no text encoder; spaces pad the text and take part in attention."""
        codes = torch.tensor([min(ord(letter), 127) for letter in prompt[: self.text_length].ljust(self.text_length)])
        tokens = self.transformer.letters(codes.to(self.device))
        return PromptEmbedding(tokens, mask=torch.ones(len(tokens), dtype=torch.bool, device=self.device))

    def text_mask(self, prompt: PromptEmbedding) -> Tensor:
        return prompt.mask

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        return {"encoder_hidden_states": prompt.tokens.unsqueeze(0)}

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }

    def encode_videos(self, videos: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(videos).latents
        return latents.transpose(1, 2)
