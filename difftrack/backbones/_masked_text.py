"""Families whose transformers read a prompt as tokens and a mask: LTX, Mochi, Allegro and Motif-Video."""

from typing import Any

import torch

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._conditions import PromptEmbedding

__all__ = ["MaskedTextBackbone"]


class MaskedTextBackbone(Backbone):
    """Reads `encoder_hidden_states` with an `encoder_attention_mask`."""

    channels_before_frames = True

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        tokens, mask, *_ = self.components.text_pipeline().encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self.text_length, device=self.device
        )
        self.components.release_text()
        return PromptEmbedding(tokens[0].to(self.components.dtype), mask=mask[0].bool())

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        return {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "encoder_attention_mask": prompt.mask.unsqueeze(0),
        }

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        empty = self.embed("")
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "prompt_attention_mask": prompt.mask.unsqueeze(0),
            "negative_prompt_embeds": empty.tokens.unsqueeze(0),
            "negative_prompt_attention_mask": empty.mask.unsqueeze(0),
        }
