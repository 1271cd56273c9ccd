"""CogVideoX, 1.0 and 1.5, text to video: joint attention, text first, velocity prediction."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftrack.backbones._backbone import Backbone, Generated, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._schedule import VelocitySchedule

__all__ = ["CogVideoXBackbone"]


class CogVideoXBackbone(Backbone):
    """A CogVideoX pipeline folder. Its attention masks no text: padding takes part in it."""

    text_position = "first"
    channels_before_frames = False
    samples_in_own_dtype = True

    @property
    def patch_size(self) -> int:
        return int(self.transformer.config.patch_size)

    @property
    def latents_per_token_frame(self) -> int:
        return int(self.transformer.config.patch_size_t or 1)

    @property
    def spatial_stride(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def temporal_stride(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def text_length(self) -> int:
        return int(self.transformer.config.max_text_seq_length)

    def attention_modules(self) -> Sequence[nn.Module]:
        return [block.attn1 for block in self.transformer.transformer_blocks]

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self._warn_where_cut(prompt)
        padded = self.components["tokenizer"](
            prompt, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        tokens = self.components["text_encoder"](padded.input_ids.to(self.device))[0][0].to(self.components.dtype)
        self.components.release_text()
        return PromptEmbedding(tokens, mask=torch.ones(len(tokens), dtype=torch.bool, device=tokens.device))

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask

    def schedule(self, num_inference_steps: int) -> VelocitySchedule:
        """Trailing timesteps, whatever the checkpoint's copy says: its public copies disagree."""
        scheduler = self._sampling_scheduler()
        if scheduler.config.prediction_type != "v_prediction":
            raise BackboneError(
                f"{self.name}: its scheduler predicts {scheduler.config.prediction_type}; CogVideoX schedules are "
                f"known for v_prediction only"
            )
        scheduler.set_timesteps(num_inference_steps)
        return VelocitySchedule(
            scheduler.timesteps,
            alphas_cumprod=scheduler.alphas_cumprod,
            stride=scheduler.config.num_train_timesteps // num_inference_steps,
            final_alpha_cumprod=float(scheduler.final_alpha_cumprod),
        )

    def generate(self, prompt: str, *, num_frames: int, **choices: Any) -> Generated:  # noqa: ANN401
        """As `Backbone.generate`; the stock decoder gives other numbers of frames than 8 k + 1 back too long."""
        period = self.temporal_stride * int(self.vae.num_latent_frames_batch_size)
        if num_frames % period != 1:
            raise BackboneError(
                f"num_frames {num_frames} cannot be sampled by {self.name}: its decoder needs {period} k + 1, such as "
                f"{num_frames // period * period + 1}"
            )
        return super().generate(prompt, num_frames=num_frames, **choices)

    def _sampling_scheduler(self) -> Any:  # noqa: ANN401
        return self.components.scheduler(timestep_spacing="trailing")

    def _transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        rotary = self._rotary_embedding(num_latent_frames, rows, cols)
        return {"encoder_hidden_states": prompt.tokens.unsqueeze(0), "image_rotary_emb": rotary}

    @cache  # noqa: B019 - a backbone lives as long as its process, and sees few sizes
    def _rotary_embedding(self, num_latent_frames: int, rows: int, cols: int) -> tuple[Tensor, Tensor] | None:
        """As the stock pipeline prepares it, for any number of latent frames."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        pipeline = self.components.pipeline(scheduler=self.components["scheduler"], with_text=False)
        height, width = rows * self.spatial_stride, cols * self.spatial_stride
        rotary: tuple[Tensor, Tensor] = pipeline._prepare_rotary_positional_embeddings(
            height, width, num_latent_frames, self.device
        )
        return rotary

    def _sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }

    def _encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        latents: Tensor = self.vae.encode(videos).latent_dist.mode() * self.vae.config.scaling_factor
        return latents.transpose(1, 2)
