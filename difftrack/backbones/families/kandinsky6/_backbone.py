"""Kandinsky 6 from text: as Kandinsky 5, with a stream of sound that the video can do without."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._prompt_tokens import PromptTemplate
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones.families.kandinsky5._backbone import Kandinsky5Backbone
from difftrack.geometry import TokenGrid

__all__ = ["Kandinsky6Backbone"]

_POOLED = "pooled_projections"


class Kandinsky6Backbone(Kandinsky5Backbone):
    """A Kandinsky 6 pipeline from text, sampled and captured without sound, as its pipeline offers.

    Prompts are not padded here: the pipeline pads and masks its own prompts, but takes no mask with embedded ones.
    """

    def layers_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        return [block.video_dec_block for block in transformer.visual_transformer_blocks]

    def cross_attention_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        return [block.video_dec_block.cross_attention for block in transformer.visual_transformer_blocks]

    def prompt_template(self) -> PromptTemplate:
        module = sys.modules[self.components.pipeline_class.__module__]
        before, _, after = module._PROMPT_TEMPLATE.partition("{}")
        return PromptTemplate(before, after, dropped=int(module._QWEN_CROP_START))

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        names = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
        tokens, pooled, mask = self.components.pipeline_class._get_prompt_embeds(
            [prompt], *(self.components[name] for name in names), self.text_length, self.device
        )
        self.components.release_text()
        tokens, dtype = tokens[0] if mask is None else tokens[0][mask[0]], self.components.dtype
        attended = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        return PromptEmbedding(tokens.to(dtype), mask=attended, extras={_POOLED: pooled.to(dtype)})

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        return timestep.expand(1)

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        return {"encoder_hidden_states": prompt.tokens.unsqueeze(0), _POOLED: prompt.extras[_POOLED]}

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for prefix, embedding in (("", prompt), ("negative_", self.embed(""))):
            inputs |= {
                f"{prefix}prompt_embeds": embedding.tokens.unsqueeze(0),
                f"{prefix}pooled_prompt_embeds": embedding.extras[_POOLED],
            }
        return inputs

    def draw_noise(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
        """Drawn as the pipeline draws it, channels last, and handed over with channels first."""
        drawn: Tensor = super(Kandinsky5Backbone, self).draw_noise(shape, generator)
        return drawn.permute(0, 4, 1, 2, 3)

    def latents_as_read(self, latents: Tensor, step: int, scheduler: Any) -> Tensor:  # noqa: ANN401
        return latents.permute(0, 2, 3, 4, 1) if step == 0 else latents

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        return super().sample(pipeline, recorder, sample_audio=False, **arguments)
