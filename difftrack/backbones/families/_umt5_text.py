"""Prompts as Wan reads them: UMT5 tokens that every layer attends to by cross-attention."""

import diffusers
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from jaxtyping import Bool
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones.families._latents import WanLatentsBackbone

__all__ = ["Umt5TextBackbone"]


class Umt5TextBackbone(WanLatentsBackbone):
    """A pipeline with Wan's latents and Wan's text encoder, whose blocks attend to text in `attn2`."""

    text_position = "none"
    cross_attention_key = "attn2"
    layers_key = ("blocks",)
    text_channels_key = "text_dim"

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        # The other pipelines with this encoder embed the same way, but require the package ftfy.
        embeds, _ = self.components.text_pipeline(kind=diffusers.WanPipeline).encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
            device=self.device,
            dtype=self.components.dtype,
        )
        self.components.release_text()
        return PromptEmbedding(embeds[0], mask=torch.ones(embeds.shape[1], dtype=torch.bool, device=embeds.device))

    def prompt_as_read(self, prompt: str) -> str:
        cleaned: str = prompt_clean(prompt)
        return cleaned

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[:0]
