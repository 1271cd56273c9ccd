"""CogVideoX, 1.0 and 1.5, from text or from an image: joint attention, text first, velocity prediction."""

from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from difftrack.backbones._conditions import Generated, ImageConditioning, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._pipelines import CogVideoXEveryFramePipeline, CogVideoXFirstFramePipeline
from difftrack.backbones._schedule import VelocitySchedule
from difftrack.backbones.families._latents import ScaledLatentsBackbone
from difftrack.backbones.families.cogvideox._single_frames import taps_summed
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["CogVideoXBackbone"]


class CogVideoXBackbone(ScaledLatentsBackbone):
    """A CogVideoX pipeline. Its attention masks no text, so padding takes part."""

    text_position = "first"
    channels_before_frames = False
    samples_in_own_dtype = True

    @property
    def spatial_stride(self) -> int:
        return int(2 ** (len(self.vae_config.block_out_channels) - 1))

    @property
    def rotary(self) -> RotaryLayout | None:
        if not self.transformer_config.use_rotary_positional_embeddings:
            return None
        spatial = self.num_channels // 8 * 3
        return RotaryLayout.interleaved(self.num_channels // 4, spatial, spatial)

    @property
    def native_latent_frames(self) -> int:
        """Compute it from the config."""
        return (int(self.transformer_config.sample_frames) - 1) // self.temporal_stride + 1

    @property
    def text_length(self) -> int:
        return int(self.transformer_config.max_text_seq_length)

    @property
    def needs_image(self) -> bool:
        return bool(self.transformer_config.in_channels > self.num_latent_channels)

    def check_size(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> None:
        """As `Architecture.check_size`; learned positions exist for one length only, and diffusers invents others."""
        super().check_size(num_frames, height, width, frames_alone=frames_alone)
        config = self.transformer_config
        known = self.native_latent_frames
        num_latent_frames = num_frames if frames_alone else (num_frames - 1) // self.temporal_stride + 1
        if config.use_learned_positional_embeddings and num_latent_frames != known:
            raise BackboneError(
                f"num_frames {num_frames} does not suit {self.name}: its positions are learned for "
                f"{known if frames_alone else config.sample_frames} frames"
            )

    def check_image_size(self, height: int, width: int) -> None:
        """As `Architecture.check_image_size`; learned positions exist for one size only."""
        super().check_image_size(height, width)
        config = self.transformer_config
        known = (config.sample_height * self.spatial_stride, config.sample_width * self.spatial_stride)
        if config.use_learned_positional_embeddings and (height, width) != known:
            raise BackboneError(
                f"{height} x {width} does not suit {self.name}: its positions are learned for {known[0]} x {known[1]}"
            )

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        padded = self.components["tokenizer"](
            prompt, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        tokens = self.components["text_encoder"](padded.input_ids.to(self.device))[0][0].to(self.components.dtype)
        self.components.release_text()
        return PromptEmbedding(tokens, mask=torch.ones(len(tokens), dtype=torch.bool, device=tokens.device))

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> VelocitySchedule:
        """Use trailing timesteps, regardless of the checkpoint's config: its public copies disagree."""
        scheduler = self.sampling_scheduler()
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
        """As `Backbone.generate`; the stock decoder returns too many frames unless they are 8 k + 1."""
        period = self.temporal_stride * int(self.components.outline("vae").num_latent_frames_batch_size)
        if num_frames % period != 1:
            raise BackboneError(
                f"num_frames {num_frames} cannot be sampled by {self.name}: its decoder needs {period} k + 1, such as "
                f"{num_frames // period * period + 1}"
            )
        return super().generate(prompt, num_frames=num_frames, **choices)

    def sampling_scheduler(self) -> Any:  # noqa: ANN401
        return self.components.scheduler(timestep_spacing="trailing")

    def sampling_pipeline(self, scheduler: Any) -> Any:  # noqa: ANN401
        """With an image our own pipeline, which gives sampling and capture the same conditioning."""
        if not self.needs_image:
            return super().sampling_pipeline(scheduler)
        chosen = self.params.image_condition
        if chosen == "none":
            raise BackboneError(f"image_condition is none, but {self.name} cannot do without an image")
        own = issubclass(self.components.pipeline_class, CogVideoXEveryFramePipeline)
        every_frame = own if chosen == "checkpoint" else chosen == "every_frame"
        kind = CogVideoXEveryFramePipeline if every_frame else CogVideoXFirstFramePipeline
        return self.components.pipeline(scheduler=scheduler, kind=kind)

    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        if not self.needs_image:
            return super().condition(image, num_latent_frames, frames_alone=frames_alone)
        pipeline = self.sampling_pipeline(self.components["scheduler"])
        pixels = self.image_pixels(image).to(self.components.dtype)
        return ImageConditioning(pipeline.image_latents(pixels, num_latent_frames, frames_alone=frames_alone)[0])

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "image_rotary_emb": self._rotary_embedding(num_latent_frames, rows, cols),
        }
        if self.transformer_config.get("ofs_embed_dim") is not None:  # ConsisID, otherwise the same, knows none
            inputs["ofs"] = torch.full((1,), 2.0, dtype=self.components.dtype, device=self.device)
        return inputs

    @cached_property
    def _rotary_embeddings(self) -> dict[tuple[int, int, int], tuple[Tensor, Tensor]]:
        """Cache of schedules; it is freed with the backbone."""
        return {}

    def _rotary_embedding(self, num_latent_frames: int, rows: int, cols: int) -> tuple[Tensor, Tensor] | None:
        """As the stock pipeline prepares it, for any number of latent frames."""
        if not self.transformer_config.use_rotary_positional_embeddings:
            return None
        size = (num_latent_frames, rows, cols)
        if size not in self._rotary_embeddings:
            pipeline = self.sampling_pipeline(self.components["scheduler"])
            height, width = rows * self.spatial_stride, cols * self.spatial_stride
            self._rotary_embeddings[size] = pipeline._prepare_rotary_positional_embeddings(
                height, width, num_latent_frames, self.device
            )
        return self._rotary_embeddings[size]

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """As `ScaledLatentsBackbone.encode_videos`; single frames in float32 use summed taps in time."""
        single = videos.shape[2] == 1 and videos.dtype == torch.float32
        with taps_summed(self.vae.encoder) if single else nullcontext():
            return super().encode_videos(videos)

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }
