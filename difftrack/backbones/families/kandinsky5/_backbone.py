"""Kandinsky 5 text to video: self-attention over video, text by cross-attention and pooled, flow matching."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._prompt_tokens import PromptTemplate
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._latents import ScaledLatentsBackbone
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["Kandinsky5Backbone"]

_POOLED = "pooled_projections"


class Kandinsky5Backbone(ScaledLatentsBackbone):
    """A Kandinsky 5 pipeline from text, with full attention.

    Its transformer rounds queries and keys to bfloat16 after the rotation, for weights of any dtype; the capture holds
    what its attention reads. Latents have their channels last.
    """

    text_position = "none"
    cross_attention_key = "cross_attention"
    channels_before_frames = False
    samples_in_own_dtype = True
    layers_key = ("visual_transformer_blocks",)
    attention_key = "self_attention"
    text_channels_key = "in_text_dim"

    @property
    def rotary(self) -> RotaryLayout:
        return RotaryLayout.interleaved(*self.transformer_config.axes_dims)

    @property
    def num_channels(self) -> int:
        return int(sum(self.transformer_config.axes_dims))

    @property
    def num_heads(self) -> int:
        return int(self.transformer_config.model_dim) // self.num_channels

    @property
    def num_latent_channels(self) -> int:
        return int(self.transformer_config.out_visual_dim)

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        pipeline, dtype = self.components.text_pipeline(), self.components.dtype
        # Not through `encode_prompt`, which requires the package ftfy.
        tokens, _ = pipeline._encode_prompt_qwen([prompt], self.device, self.text_length, dtype)
        pooled = pipeline._encode_prompt_clip([prompt], self.device, dtype)
        self.components.release_text()
        mask = torch.ones(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        return PromptEmbedding(tokens[0], mask=mask, extras={_POOLED: pooled})

    def prompt_template(self) -> PromptTemplate:
        stock = self.components.outlined_pipeline("vae")  # its constructor reads the autoencoder's config
        before, _, after = stock.prompt_template.partition("{}")
        return PromptTemplate(before, after, dropped=int(stock.prompt_template_encode_start_idx))

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[:0]

    def placeholder_extras(self) -> dict[str, Tensor]:
        return {_POOLED: self.placeholder_tensor(1, self.transformer_config.in_text_dim2)}

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        return timestep.expand(1).to(self.components.dtype)

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        """Without an image: add blank latents and a blank mask to the noisy ones, if the transformer reads them."""
        if not self.transformer_config.visual_cond:
            return latents
        num_latent_frames, channels, rows, cols = latents.shape
        return torch.cat([latents, latents.new_zeros(num_latent_frames, channels + 1, rows, cols)], dim=1)

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        counts = (num_latent_frames, rows // self.patch_size, cols // self.patch_size)
        size_px = (rows * self.spatial_stride, cols * self.spatial_stride)
        return {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            _POOLED: prompt.extras[_POOLED],
            "visual_rope_pos": [torch.arange(count, device=self.device) for count in counts],
            "text_rope_pos": torch.arange(len(prompt.tokens), device=self.device),
            "scale_factor": self.components.pipeline_class._get_scale_factor(
                None, *size_px
            ),  # the method uses no state
        }

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for prefix, embedding in (("", prompt), ("negative_", self.embed(""))):
            inputs |= {
                f"{prefix}prompt_embeds_qwen": embedding.tokens.unsqueeze(0),
                f"{prefix}prompt_embeds_clip": embedding.extras[_POOLED],
                f"{prefix}prompt_cu_seqlens": torch.tensor([0, len(embedding.tokens)], dtype=torch.int32),
            }
        return inputs

    def draw_noise(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
        """Return noise with the conditioning channels, which the pipeline adds only to its own noise."""
        noise = super().draw_noise(shape, generator)
        return self.to_batch(self.with_conditioning(self.from_batch(noise, shape), None))

    def to_batch(self, latents: Float[Tensor, "latent_frame channel row col"]) -> Tensor:
        return latents.permute(0, 2, 3, 1).unsqueeze(0)

    def from_batch(self, batch: Tensor, shape: Sequence[int]) -> Float[Tensor, "latent_frame channel row col"]:
        return batch[0, ..., : shape[1]].permute(0, 3, 1, 2)
