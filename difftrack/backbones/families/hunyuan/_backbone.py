"""HunyuanVideo text to video: joint attention, text last and masked, guidance-distilled flow matching."""

from typing import Any

import numpy as np
import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from jaxtyping import Bool
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._prompt_tokens import PromptTemplate
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._latents import ScaledLatentsBackbone
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["HunyuanVideoBackbone"]

_POOLED = "pooled_projections"


class HunyuanVideoBackbone(ScaledLatentsBackbone):
    """A HunyuanVideo pipeline. Layers are numbered through the dual-stream and then the single-stream blocks."""

    text_position = "last"
    channels_before_frames = True
    reads_guidance = True
    layers_key = ("transformer_blocks", "single_transformer_blocks")
    attention_key = "attn"

    @property
    def rotary(self) -> RotaryLayout:
        return RotaryLayout.interleaved(*self.transformer_config.rope_axes_dim)

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        embeds, pooled, mask = self.components.text_pipeline().encode_prompt(
            prompt, max_sequence_length=self.text_length, device=self.device, dtype=self.components.dtype
        )
        self.components.release_text()
        return PromptEmbedding(embeds[0], mask=mask[0].bool(), extras={_POOLED: pooled})

    def prompt_template(self) -> PromptTemplate:
        before, _, after = DEFAULT_PROMPT_TEMPLATE["template"].partition("{}")
        return PromptTemplate(before, after, dropped=DEFAULT_PROMPT_TEMPLATE["crop_start"])

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        """Mask as the transformer reads it: this many tokens from the first on."""
        return torch.arange(len(prompt.mask), device=prompt.mask.device) < prompt.mask.sum()

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1])
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        dtype = self.components.dtype
        return {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "encoder_attention_mask": prompt.mask.to(dtype).unsqueeze(0),
            _POOLED: prompt.extras[_POOLED],
            "guidance": torch.full((1,), self.params.embedded_guidance * 1000, dtype=dtype, device=self.device),
        }

    def placeholder_extras(self) -> dict[str, Tensor]:
        return {_POOLED: self.placeholder_tensor(1, self.transformer_config.pooled_projection_dim)}

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "pooled_prompt_embeds": prompt.extras[_POOLED],
            "prompt_attention_mask": prompt.mask.to(self.components.dtype).unsqueeze(0),
        }
