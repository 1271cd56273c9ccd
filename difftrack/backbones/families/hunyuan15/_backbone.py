"""HunyuanVideo 1.5, from text: joint attention, text of two encoders last and masked, flow matching, a guider."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import format_text_input
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._prompt_tokens import PROMPT_MARK, PromptTemplate, chat_template
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout
from difftrack.text_tokens import TextTokens

__all__ = ["HunyuanVideo15Backbone"]

_TOKENS_2, _MASK_2 = "encoder_hidden_states_2", "encoder_attention_mask_2"


class HunyuanVideo15Backbone(Backbone):
    """A HunyuanVideo 1.5 pipeline from text.

    Its attention reads image tokens (none valid without an image), glyph text and the prompt: the valid ones first,
    then all padding, which is masked.
    """

    text_position = "last"
    channels_before_frames = True
    samples_in_own_dtype = True
    attention_key = "attn"

    @property
    def rotary(self) -> RotaryLayout:
        return RotaryLayout.interleaved(*self.transformer_config.rope_axes_dim)

    @property
    def text_length(self) -> int:
        return int(self._stock.tokenizer_max_length)

    @property
    def num_text_tokens(self) -> int:
        stock = self._stock
        return int(stock.vision_num_semantic_tokens + stock.tokenizer_2_max_length + stock.tokenizer_max_length)

    def attention_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        if self.components.pipeline_name != "HunyuanVideo15Pipeline":
            raise BackboneError(
                f"{self.name}: only text to video of HunyuanVideo 1.5 is supported; this is "
                f"{self.components.pipeline_name}"
            )
        return super().attention_of(transformer)

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        # Its constructor reads the autoencoder's config even if only text is embedded.
        tokens, mask, tokens_2, mask_2 = self.components.text_pipeline("vae").encode_prompt(
            prompt, device=self.device, dtype=self.components.dtype
        )
        self.components.release_text()
        return PromptEmbedding(tokens[0], mask=mask[0].bool(), extras={_TOKENS_2: tokens_2, _MASK_2: mask_2})

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        valid = prompt.mask.sum() + prompt.extras[_MASK_2].sum()
        return torch.arange(self.num_text_tokens, device=prompt.mask.device) < valid

    def prompt_template(self) -> PromptTemplate:
        stock = self._stock
        (messages,) = format_text_input([PROMPT_MARK], stock.system_message)
        return chat_template(
            self.components["tokenizer"],
            messages,
            dropped=int(stock.prompt_template_encode_start_idx),
            add_generation_prompt=True,
        )

    def text_tokens(self, prompt: str, embedded: PromptEmbedding) -> TextTokens | None:
        """Glyph text, if a prompt has any, comes first and counts as special."""
        found = super().text_tokens(prompt, embedded)
        num_glyphs = int(embedded.extras[_MASK_2].sum())
        return None if found is None else found.after_special(num_glyphs, self.num_text_tokens)

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1])
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        """Without an image: blank latents and a blank mask beside the noisy ones."""
        num_latent_frames, channels, rows, cols = latents.shape
        return torch.cat([latents, latents.new_zeros(num_latent_frames, channels + 1, rows, cols)], dim=1)

    def timestep_input(self, timestep: Tensor, grid: TokenGrid) -> Tensor:
        return timestep.expand(1).to(self.components.dtype)

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        stock, dtype = self._stock, self.components.dtype
        no_image = torch.zeros(
            1,
            stock.vision_num_semantic_tokens,
            self.transformer_config.image_embed_dim,
            dtype=dtype,
            device=self.device,
        )
        return {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "encoder_attention_mask": prompt.mask.to(dtype).unsqueeze(0),
            "image_embeds": no_image,
            **prompt.extras,
        }

    def placeholder_extras(self) -> dict[str, Tensor]:
        """No glyph text, as most prompts have none."""
        tokens = self.placeholder_tensor(
            1, self._stock.tokenizer_2_max_length, self.transformer_config.text_embed_2_dim
        )
        return {_TOKENS_2: tokens, _MASK_2: tokens.new_zeros(tokens.shape[:2])}

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for prefix, embedding in (("", prompt), ("negative_", self.embed(""))):
            inputs |= {
                f"{prefix}prompt_embeds": embedding.tokens.unsqueeze(0),
                f"{prefix}prompt_embeds_mask": embedding.mask.to(self.components.dtype).unsqueeze(0),
                f"{prefix}prompt_embeds_2": embedding.extras[_TOKENS_2],
                f"{prefix}prompt_embeds_mask_2": embedding.extras[_MASK_2],
            }
        return inputs

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Sample with a guider; the pipeline has no step callback, so `scheduler.step` is wrapped to record latents."""
        guider, step = pipeline.guider, pipeline.scheduler.step

        def step_and_tell(*inputs: Any, **choices: Any) -> Any:  # noqa: ANN401
            stepped = step(*inputs, **choices)
            recorder.keep(stepped[0])
            return stepped

        pipeline.scheduler.step = step_and_tell
        pipeline.register_modules(guider=type(guider).from_config(guider.config, guidance_scale=cfg_scale))
        frames: np.ndarray = pipeline(**arguments, output_type="np").frames[0]
        return frames

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        # One prompt at a time: the attention mask is for a batch of one.
        latents = torch.cat([self.vae.encode(video.unsqueeze(0)).latent_dist.mode() for video in videos])
        scaled: Tensor = latents * self.vae_config.scaling_factor
        return scaled.transpose(1, 2)

    @cached_property
    def _stock(self) -> Any:  # noqa: ANN401
        """The stock pipeline, which alone knows the text lengths; its constructor reads the autoencoder's config."""
        return self.components.outlined_pipeline("vae")
