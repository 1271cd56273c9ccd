"""Motif-Video from text: joint attention, text last and masked, flow matching, a guider, and a decoder of its own."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.motif_video.pipeline_motif_video import calculate_shift
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._masked_text import MaskedTextBackbone
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._latents import WanLatentsBackbone
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["MotifVideoBackbone"]


class MotifVideoBackbone(MaskedTextBackbone, WanLatentsBackbone):
    """A Motif-Video pipeline from text.

    Layers are numbered through the dual-stream blocks and those single-stream ones that attend to the clip and the
    text. The last blocks, its decoder, attend to the clip twice, as they and as the encoder see it, and to no text:
    descriptors of one clip do not describe them, and they are left out.
    """

    text_position = "last"
    samples_in_own_dtype = True

    attention_key = "attn"

    @property
    def rotary(self) -> RotaryLayout:
        return RotaryLayout.interleaved(*self.transformer_config.rope_axes_dim)

    def layers_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        single, num_decoders = transformer.single_transformer_blocks, transformer.config.num_decoder_layers
        return [*transformer.transformer_blocks, *single[: len(single) - num_decoders]]

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        tokens, mask = self.components.pipeline_class._get_prompt_embeds(
            SimpleNamespace(),  # the method uses no state
            self.components["text_encoder"],
            self.components["tokenizer"],
            prompt,
            self.text_length,
            self.device,
            self.components.dtype,
        )
        self.components.release_text()
        return PromptEmbedding(tokens[0], mask=mask[0].bool())

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        if scheduler.config.use_dynamic_shifting and grid is None:
            raise BackboneError(f"the noise levels of {self.name} depend on the clip's size: give schedule() its grid")
        limits = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        num_tokens = 0 if grid is None else grid.num_tokens
        mu = calculate_shift(num_tokens, *(scheduler.config.get(key, value) for key, value in limits.items()))
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps), mu=mu)
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        """Without an image: add blank latents and a blank mask to the noisy ones."""
        num_latent_frames, channels, rows, cols = latents.shape
        return torch.cat([latents, latents.new_zeros(num_latent_frames, channels + 1, rows, cols)], dim=1)

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Guidance is a component here."""
        guider = pipeline.guider
        pipeline.register_modules(guider=type(guider).from_config(guider.config, guidance_scale=cfg_scale))
        frames: np.ndarray = pipeline(**arguments, callback_on_step_end=recorder, output_type="np").frames[0]
        return frames
