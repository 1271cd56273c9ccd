"""EasyAnimate 5.1 from text: joint attention, text first, flow matching."""

import inspect
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Bool, Shaped
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._prompt_tokens import PROMPT_MARK, PromptTemplate, chat_template
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._latents import ScaledLatentsBackbone
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["EasyAnimateBackbone"]

_MASK = "mask"


class EasyAnimateBackbone(ScaledLatentsBackbone):
    """An EasyAnimate pipeline. Its attention masks no text, so padding takes part, as in CogVideoX."""

    text_position = "first"
    channels_before_frames = True
    samples_in_own_dtype = True

    @property
    def rotary(self) -> RotaryLayout:
        spatial = self.num_channels // 8 * 3
        return RotaryLayout.interleaved(self.num_channels // 4, spatial, spatial)

    @property
    def text_length(self) -> int:
        call = inspect.signature(self.components.pipeline_class.encode_prompt)
        return int(call.parameters["max_sequence_length"].default)

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        tokens, _, mask, _ = self.components.text_pipeline("transformer").encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
            device=self.device,
            dtype=self.components.dtype,
        )
        self.components.release_text()
        attended = torch.ones(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        return PromptEmbedding(tokens[0], mask=attended, extras={_MASK: mask})

    def prompt_template(self) -> PromptTemplate:
        messages = [{"role": "user", "content": [{"type": "text", "text": PROMPT_MARK}]}]
        return chat_template(self.components["tokenizer"], messages, add_generation_prompt=True)

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        shift = {"mu": 1} if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else {}  # as the stock pipeline
        scheduler.set_timesteps(num_inference_steps, **shift)
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        return timestep.expand(1).to(self.components.dtype)

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        return {"encoder_hidden_states": prompt.tokens.unsqueeze(0)}

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        empty = self.embed("")
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "prompt_attention_mask": prompt.extras[_MASK],
            "negative_prompt_embeds": empty.tokens.unsqueeze(0),
            "negative_prompt_attention_mask": empty.extras[_MASK],
        }
