"""Allegro: self-attention over video alone, noise prediction, four frames to a latent frame from the first on."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._masked_text import MaskedTextBackbone
from difftrack.backbones._schedule import NoiseSchedule
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["AllegroBackbone"]


class AllegroBackbone(MaskedTextBackbone):
    """An Allegro pipeline.

    Its autoencoder folds frames 4 k ... 4 k + 3 into latent frame k, none by itself; a single frame is encoded as four
    equal frames. It only supports tiles of one size; a clip that they do not cover is encoded as one tile.
    """

    text_position = "none"
    cross_attention_key = "attn2"
    text_channels_key = "caption_channels"
    samples_in_own_dtype = True

    @property
    def rotary(self) -> RotaryLayout:
        of_axis = self.num_channels // 3
        return RotaryLayout.halves_of_axes(of_axis, of_axis, of_axis)

    @property
    def frames_past_period(self) -> int:
        return 0

    def prompt_as_read(self, prompt: str) -> str:
        return prompt.lower().strip()

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[:0]

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> NoiseSchedule:
        scheduler = self.sampling_scheduler()
        if scheduler.config.prediction_type != "epsilon":
            raise BackboneError(
                f"{self.name}: its scheduler predicts {scheduler.config.prediction_type}; Allegro schedules are known "
                f"for epsilon only"
            )
        scheduler.set_timesteps(num_inference_steps)
        return NoiseSchedule(scheduler.timesteps, sigmas=scheduler.sigmas)

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        inputs = super().transformer_inputs(prompt, num_latent_frames, rows, cols)
        inputs["encoder_hidden_states"] = prompt.tokens[None, None]
        return inputs | {"image_rotary_emb": self._rotary_embedding(num_latent_frames, rows, cols)}

    @cached_property
    def _rotary_embeddings(self) -> dict[tuple[int, int, int], tuple[Any, Any]]:
        """Cache of schedules; it is freed with the backbone."""
        return {}

    def _rotary_embedding(self, num_latent_frames: int, rows: int, cols: int) -> tuple[Any, Any]:
        size = (num_latent_frames, rows, cols)
        if size not in self._rotary_embeddings:
            pipeline = self.components.pipeline(scheduler=self.components["scheduler"])
            height, width = rows * self.spatial_stride, cols * self.spatial_stride
            self._rotary_embeddings[size] = pipeline._prepare_rotary_positional_embeddings(
                1, height, width, num_latent_frames, self.device
            )
        return self._rotary_embeddings[size]

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return super().sampling_inputs(prompt) | {"negative_prompt": None}

    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        if videos.shape[2] == 1:
            videos = videos.expand(-1, -1, self.temporal_stride, -1, -1)
        self._fit_tiles(*videos.shape[2:])
        # Tiles are encoded one at a time.
        latents = torch.cat([self.vae.encode(video.unsqueeze(0)).latent_dist.mode() for video in videos])
        scaled: Tensor = latents.transpose(1, 2) * self.vae_config.scaling_factor
        return scaled

    def sample(self, *listening: Any, **arguments: Any) -> Float[np.ndarray, "frame height width rgb"]:  # noqa: ANN401
        self._fit_tiles(arguments["num_frames"], arguments["height"], arguments["width"])
        return super().sample(*listening, **arguments)

    def latents_as_read(self, latents: Tensor, step: int, scheduler: Any) -> Tensor:  # noqa: ANN401
        """Scale `x0 + sigma * noise`, which the sampler keeps, to the unit variance that the transformer reads."""
        if step == 0:
            latents = latents * scheduler.init_noise_sigma
        read: Tensor = latents / ((scheduler.sigmas[step] ** 2 + 1) ** 0.5)
        return read

    def _fit_tiles(self, *size: int) -> None:
        """Set the autoencoder's tiles to the published ones where they cover (frames, height, width), else to one."""
        vae = self.vae
        vae.enable_tiling()
        side = vae.config.sample_size
        kernel = (24, side, side)
        overlap = (vae.tile_overlap_t, vae.tile_overlap_h, vae.tile_overlap_w)
        stride = tuple(length - shared for length, shared in zip(kernel, overlap, strict=True))
        covered = all(
            length >= tile and (length - tile) % step == 0
            for length, tile, step in zip(size, kernel, stride, strict=True)
        )
        vae.kernel, vae.stride = (kernel, stride) if covered else (size, size)
