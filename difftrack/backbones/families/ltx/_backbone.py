"""LTX-Video: one latent pixel per token, self-attention over video alone, levels that depend on the clip's size."""

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._masked_text import MaskedTextBackbone
from difftrack.backbones._schedule import FlowSchedule
from difftrack.geometry import TokenGrid

__all__ = ["LTXBackbone"]


class LTXBackbone(MaskedTextBackbone):
    """An LTX pipeline, from text: the first generation's, or the one for conditions (0.9.5 and later) without any."""

    text_position = "none"
    cross_attention_key = "attn2"
    text_channels_key = "caption_channels"

    @property
    def draws_own_noise(self) -> bool:
        """The pipeline for conditions takes latents only to noise them."""
        return self._for_conditions

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[:0]

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        if self._for_conditions:
            sigmas = linear_quadratic_schedule(num_inference_steps)
            scheduler.set_timesteps(sigmas=sigmas, timesteps=sigmas * 1000)
        else:
            sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
            scheduler.set_timesteps(sigmas=sigmas, mu=self._shift(scheduler.config, grid))
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    @property
    def _for_conditions(self) -> bool:
        return self.components.pipeline_name == "LTXConditionPipeline"

    def _shift(self, config: Any, grid: TokenGrid | None) -> float | None:  # noqa: ANN401
        """The scheduler's shift for a clip of that size, by the stock pipeline's rule."""
        if not config.use_dynamic_shifting:
            return None
        if grid is None:
            raise BackboneError(f"the noise levels of {self.name} depend on the clip's size: give schedule() its grid")
        limits = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return float(calculate_shift(grid.num_tokens, *(config[limit] for limit in limits)))

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        inputs = super().transformer_inputs(prompt, num_latent_frames, rows, cols)
        call = inspect.signature(self.components.pipeline_class.__call__)
        frame_rate = float(call.parameters["frame_rate"].default)
        if self._for_conditions:
            return inputs | {"video_coords": self._coordinates(num_latent_frames, rows, cols, frame_rate)}
        return inputs | {
            "num_frames": num_latent_frames,
            "height": rows,
            "width": cols,
            "rope_interpolation_scale": (self.temporal_stride / frame_rate, self.spatial_stride, self.spatial_stride),
        }

    def _coordinates(
        self, num_latent_frames: int, rows: int, cols: int, frame_rate: float
    ) -> Float[Tensor, "1 axis token"]:
        """Seconds and pixels of each token, as the pipeline for conditions counts them."""
        pipeline = diffusers.LTXConditionPipeline
        ids = pipeline._prepare_video_ids(
            1,
            num_latent_frames,
            rows,
            cols,
            patch_size_t=self.latents_per_token_frame,
            patch_size=self.patch_size,
            device=self.device,
        )
        coordinates: Tensor = pipeline._scale_video_ids(
            ids,
            scale_factor=self.spatial_stride,
            scale_factor_t=self.temporal_stride,
            frame_index=0,
            device=self.device,
        ).float()
        coordinates[:, 0] *= 1.0 / frame_rate
        return coordinates

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        latents: Tensor = diffusers.LTXPipeline._normalize_latents(
            self.vae.encode(videos).latent_dist.mode(),
            self.vae.latents_mean,
            self.vae.latents_std,
            self.vae_config.scaling_factor,
        )
        return latents.transpose(1, 2)

    def draw_noise(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
        """Drawn before it is packed into tokens."""
        num_latent_frames, channels, rows, cols = shape
        noise = torch.randn((channels, num_latent_frames, rows, cols), generator=generator, dtype=torch.float32)
        return self.to_batch(noise.transpose(0, 1).to(self.device))

    def to_batch(self, latents: Float[Tensor, "latent_frame channel row col"]) -> Float[Tensor, "1 token channel"]:
        packed: Tensor = diffusers.LTXPipeline._pack_latents(
            super().to_batch(latents), self.patch_size, self.latents_per_token_frame
        )
        return packed

    def from_batch(self, batch: Tensor, shape: Sequence[int]) -> Float[Tensor, "latent_frame channel row col"]:
        num_latent_frames, _, rows, cols = shape
        unpacked = diffusers.LTXPipeline._unpack_latents(
            batch,
            num_latent_frames // self.latents_per_token_frame,
            rows // self.patch_size,
            cols // self.patch_size,
            self.patch_size,
            self.latents_per_token_frame,
        )
        return super().from_batch(unpacked, shape)
