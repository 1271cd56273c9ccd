"""Wan 2.1 and 2.2, from text or an image: self-attention over video, text by cross-attention, flow matching."""

from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._umt5_text import Umt5TextBackbone
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["WanBackbone"]

_IMAGE_TOKENS = "encoder_hidden_states_image"
_CLIP_TOKENS = 257
"""Tokens of Wan 2.1's image encoder: 16 x 16 patches and a class token."""


class WanBackbone(Umt5TextBackbone):
    """A Wan pipeline.

    Wan 2.1 image to video reads the image as additional channels (a mask, and the latents of a clip that is blank after
    its first frame) and through cross-attention. Wan 2.2 TI2V reads a timestep per token: with an image, the first
    latent frame is the image's own, at timestep 0. Wan 2.2 A14B is two transformers of the same layers, each for its
    part of the steps; image to video reads the image as channels, as Wan 2.1, without cross-attention.
    """

    @property
    def rotary(self) -> RotaryLayout:
        spatial = 2 * (self.num_channels // 6)
        return RotaryLayout.interleaved(self.num_channels - 2 * spatial, spatial, spatial)

    @property
    def needs_image(self) -> bool:
        if self._image_beside_latents:
            return True
        chosen = self.params.image_condition
        from_image = self.components.pipeline_name == "WanImageToVideoPipeline"
        return self._timestep_per_token and (from_image if chosen == "checkpoint" else chosen != "none")

    @property
    def experts(self) -> Mapping[str, str]:
        """Wan 2.2 A14B has two, the first for the steps of more noise."""
        if "transformer_2" not in self.components.names:
            return {}
        return {"high_noise": "transformer", "low_noise": "transformer_2"}

    def expert_at(self, timestep: Shaped[Tensor, ""]) -> str | None:
        if not self.experts:
            return None
        if self.params.expert != "by_step":
            return self.params.expert
        boundary = self.components.settings["boundary_ratio"] * self.components["scheduler"].config.num_train_timesteps
        return "high_noise" if timestep >= boundary else "low_noise"

    @property
    def text_call(self) -> int:
        """The call to text follows the one to the image, if the image is read by cross-attention."""
        config = self.transformer_config
        return int(config.image_dim is not None and config.added_kv_proj_dim is not None)

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        return FlowSchedule(
            scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:num_inference_steps]
        )

    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        if not self.needs_image:
            return super().condition(image, num_latent_frames, frames_alone=frames_alone)
        if self.params.image_condition == "every_frame":
            raise BackboneError(f"image_condition is every_frame, but {self.name} reads an image as its first frame")
        pipeline, pixels = self.sampling_pipeline(self.components["scheduler"]), self.image_pixels(image)
        if not self._image_beside_latents:
            return ImageConditioning(_image_latents(pipeline, pixels, num_frames=1))
        extras = {}
        if self.transformer_config.image_dim is not None:
            embeds = pipeline.encode_image(np.round(image).astype(np.uint8), self.device)
            extras[_IMAGE_TOKENS] = embeds.to(self.components.dtype)
        if not frames_alone:
            num_frames = (num_latent_frames - 1) * self.temporal_stride + 1
            return ImageConditioning(_image_latents(pipeline, pixels, num_frames=num_frames), extras)
        first, blank = (_image_latents(pipeline, frame, num_frames=1) for frame in (pixels, torch.zeros_like(pixels)))
        blank[:, : self.temporal_stride] = 0  # the mask's channels, one for each frame of a latent frame
        return ImageConditioning(torch.cat([first, blank.expand(num_latent_frames - 1, -1, -1, -1)]), extras)

    def placeholder_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"]
    ) -> ImageConditioning | None:
        conditioning = super().placeholder_conditioning(latents)
        if conditioning is not None and not self._image_beside_latents:
            return ImageConditioning(self.placeholder_tensor(1, *latents.shape[1:]))
        if conditioning is not None and self.transformer_config.image_dim is not None:
            tokens = self.placeholder_tensor(1, _CLIP_TOKENS, self.transformer_config.image_dim)
            return ImageConditioning(conditioning.latents, {_IMAGE_TOKENS: tokens})
        return conditioning

    @property
    def _timestep_per_token(self) -> bool:
        return bool(self.components.settings.get("expand_timesteps", False))

    @property
    def _image_beside_latents(self) -> bool:
        return bool(self.transformer_config.in_channels > self.num_latent_channels)

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        if not self._timestep_per_token:
            return timestep.expand(1)
        per_token = timestep.repeat(1, grid.num_tokens)
        if self.needs_image:
            per_token[:, : grid.rows * grid.cols] = 0
        return per_token

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        if conditioning is None or self._image_beside_latents:
            return super().with_conditioning(latents, conditioning)
        return torch.cat([conditioning.latents.to(latents), latents[1:]])

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        return {"encoder_hidden_states": prompt.tokens.unsqueeze(0)}

    def sampling_pipeline(self, scheduler: Any) -> Any:  # noqa: ANN401
        """Wan 2.2 TI2V samples by either pipeline, whichever its folder names."""
        if self._image_beside_latents or not self._timestep_per_token:
            return super().sampling_pipeline(scheduler)
        kind = diffusers.WanImageToVideoPipeline if self.needs_image else diffusers.WanPipeline
        return self.components.pipeline(scheduler=scheduler, kind=kind)

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }


@torch.no_grad()
def _image_latents(
    pipeline: Any,  # noqa: ANN401
    pixels: Float[Tensor, "1 rgb height width"],
    *,
    num_frames: int,
) -> Float[Tensor, "latent_frame channel row col"]:
    """Return the stock pipeline's conditioning of an image for a clip of this many frames."""
    height, width = pixels.shape[2:]
    conditioning: Tensor = pipeline.prepare_latents(
        pixels,
        batch_size=1,
        height=height,
        width=width,
        num_frames=num_frames,
        dtype=torch.float32,
        device=pixels.device,
        latents=torch.empty(0),
    )[1]
    return conditioning[0].transpose(0, 1)
