"""SkyReels-V2 text to video: Wan's layout, its frames denoised together or by diffusion forcing."""

from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones.families.wan._backbone import WanBackbone
from difftrack.geometry import TokenGrid

__all__ = ["SkyReelsV2Backbone"]


class SkyReelsV2Backbone(WanBackbone):
    """A SkyReels-V2 pipeline; diffusion forcing with all frames at one level, as its pipeline does by default.

    With `num_frame_per_block` > 1 its attention is causal over blocks of frames; the mask is the model's own.
    """

    @property
    def draws_own_noise(self) -> bool:
        """The diffusion-forcing pipeline cannot be given latents."""
        return self._forces_diffusion

    @property
    def needs_image(self) -> bool:
        return self._image_beside_latents

    def check_size(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> None:
        """As `Architecture.check_size`; attention in blocks of frames needs whole blocks."""
        super().check_size(num_frames, height, width, frames_alone=frames_alone)
        block = int(self.transformer_config.num_frame_per_block)
        num_latent_frames = num_frames if frames_alone else (num_frames - 1) // self.temporal_stride + 1
        if num_latent_frames % block:
            raise BackboneError(
                f"{num_frames} frames make {num_latent_frames} latent frames; {self.name} attends in blocks of {block}"
            )

    @property
    def _forces_diffusion(self) -> bool:
        return "DiffusionForcing" in self.components.pipeline_name

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return super().sampling_inputs(prompt) | {"prompt": None}

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        """A timestep per latent frame under diffusion forcing; that pipeline cuts it to an integer."""
        return timestep.long().expand(1, grid.num_latent_frames) if self._forces_diffusion else timestep.expand(1)

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        inputs = super().transformer_inputs(prompt, num_latent_frames, rows, cols)
        if self._forces_diffusion:
            inputs |= {"enable_diffusion_forcing": True, "fps": [1]}  # its table's entry for 24 frames per second
        return inputs
