"""HunyuanVideo FramePack: generates a clip from an image in windows, each beside the frames known before it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanVideoFramepackPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import calculate_shift
from jaxtyping import Bool, Float, Num
from torch import Tensor

from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._descriptors import SequencePart
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families.hunyuan._backbone import HunyuanVideoBackbone
from difftrack.geometry import TokenGrid
from difftrack.text_tokens import Role, TextTokens

__all__ = ["FirstFrameFramePackPipeline", "FramePackBackbone"]

_SHORT, _MID, _LONG = 1, 2, 16
"""Latent frames of history after the window, nearest first; the stock pipeline's default order of sampling."""
_COARSER = {"long": (_LONG, 4), "mid": (_MID, 2)}
"""Latent frames, and how many of them (and of tokens along both image axes) one token combines."""
_MOST_SHIFT = math.log(7.0)
"""Limit of the stock pipeline."""
_SIGLIP_TOKENS = 729
"""Tokens of the image encoder of the published checkpoint: 27 x 27 patches."""


class FirstFrameFramePackPipeline(HunyuanVideoFramepackPipeline):
    """FramePack with the posterior's mode as the image's latents; the stock pipeline draws a sample."""

    @torch.no_grad()
    def prepare_image_latents(
        self,
        image: Float[Tensor, "1 rgb height width"],
        *_: Any,  # noqa: ANN401
        **others: Any,  # noqa: ANN401
    ) -> Float[Tensor, "1 channel 1 row col"]:
        """The latents of an image in [-1, 1]."""
        pixels = image.unsqueeze(2).to(device=self._execution_device, dtype=self.vae.dtype)
        latents: Tensor = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        return latents.float()


class FramePackBackbone(HunyuanVideoBackbone):
    """A FramePack pipeline. A clip is its image, which is token frame 0, and one window of denoised frames.

    The image's latents are clean and have their own tokens in the sequence, as have the frames that were sampled
    before: in the order of the stock pipeline those behind the window, the coarser the later (`short`, `mid`, `long`;
    zeros behind a first window). `LayerDescriptors.history` has them by these names. Tokens of the image encoder stand
    in front of the prompt's. What latents hold at frame 0 is not read; the transformer gives zeros there.
    """

    @property
    def needs_image(self) -> bool:
        return True

    @property
    def draws_own_noise(self) -> bool:
        """The stock pipeline does not accept latents."""
        return True

    @property
    def num_text_tokens(self) -> int:
        """Number of tokens of the image encoder plus the largest number of the prompt's."""
        return self._num_image_tokens + self.text_length

    @property
    def _num_image_tokens(self) -> int:
        if "image_encoder" not in self.components.names:
            return _SIGLIP_TOKENS
        config = self.components.config_of("image_encoder")
        return int(config["image_size"] // config["patch_size"]) ** 2

    def check_size(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> None:
        """Check as `Architecture.check_size` does, and refuse a clip of the image alone."""
        super().check_size(num_frames, height, width, frames_alone=frames_alone)
        if num_frames < 2:
            raise BackboneError(
                f"num_frames {num_frames} does not suit {self.name}: its first frame is an image that is not denoised; "
                f"give it {2 if frames_alone else self.frame_period + 1} at least"
            )

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        """Return True for the whole sequence: for a batch of one, the transformer leaves padding out."""
        return prompt.mask.new_ones(self._num_image_tokens + int(prompt.mask.sum()))

    def text_tokens(self, prompt: str, embedded: PromptEmbedding) -> TextTokens | None:
        """The tokens of the image encoder belong to no word."""
        found = super().text_tokens(prompt, embedded)
        if found is None:
            return None
        of_image, of_prompt = self._num_image_tokens, int(embedded.mask.sum())
        no_word: Role = "special"
        return TextTokens(
            found.prompt,
            (None,) * of_image + found.spans[:of_prompt],
            (no_word,) * of_image + found.roles[:of_prompt],
            found.read_to,
        )

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        shift = {"mu": self._shift(scheduler.config, grid)} if scheduler.config.use_dynamic_shifting else {}
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1], **shift)
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def _shift(self, config: Any, grid: TokenGrid | None) -> float:  # noqa: ANN401
        """Compute the scheduler's shift for a window of that size by the stock pipeline's rule."""
        if grid is None:
            raise BackboneError(f"the noise levels of {self.name} depend on the clip's size: give schedule() its grid")
        num_tokens = grid.num_tokens - grid.tokens_per_frame
        limits = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return min(float(calculate_shift(num_tokens, *(config[limit] for limit in limits))), _MOST_SHIFT)

    def sequence_parts(self, grid: TokenGrid) -> tuple[SequencePart, ...]:
        coarse = (
            SequencePart(name, frames // fold, -(-grid.rows // fold), -(-grid.cols // fold))
            for name, (frames, fold) in _COARSER.items()
        )
        return (
            *coarse,
            SequencePart(None, 1, grid.rows, grid.cols),
            SequencePart("short", _SHORT, grid.rows, grid.cols),
            SequencePart(None, grid.num_latent_frames - 1, grid.rows, grid.cols),
        )

    def sampling_pipeline(self, scheduler: Any) -> Any:  # noqa: ANN401
        if self.params.image_condition in ("none", "every_frame"):
            raise BackboneError(
                f"image_condition is {self.params.image_condition}, but {self.name} reads an image as its first frame"
            )
        return self.components.pipeline(scheduler=scheduler, kind=FirstFrameFramePackPipeline)

    @torch.no_grad()
    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        pixels, pipeline = self.image_pixels(image).float(), self.sampling_pipeline(self.components["scheduler"])
        embeds = pipeline.encode_image(pixels, device=self.device).to(self.components.dtype)
        return self._conditioning(pipeline.prepare_image_latents(pixels), embeds)

    def _conditioning(
        self, image_latents: Float[Tensor, "1 channel 1 row col"], image_embeds: Float[Tensor, "1 token image_channel"]
    ) -> ImageConditioning:
        clean = torch.cat([image_latents, torch.zeros_like(image_latents).expand(-1, -1, _SHORT, -1, -1)], dim=2)
        extras = {"image_embeds": image_embeds, "latents_clean": clean.to(self.components.dtype)}
        return ImageConditioning(image_latents[0].transpose(0, 1), extras)

    def placeholder_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"]
    ) -> ImageConditioning | None:
        image = self.placeholder_tensor(1, latents.shape[1], 1, *latents.shape[2:])
        embeds = self.placeholder_tensor(1, self._num_image_tokens, self.transformer_config.image_proj_dim)
        return self._conditioning(image, embeds)

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "window_frame channels_read row col"]:
        """Return the window; the transformer reads the image as a separate input."""
        return latents[1:]

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        inputs = super().transformer_inputs(prompt, num_latent_frames, rows, cols)
        window = num_latent_frames - 1
        lengths = [1, window, _SHORT, _MID, _LONG]
        image, frames, short, mid, long = torch.split(torch.arange(sum(lengths)), lengths)
        blank = torch.zeros(
            1, self.num_latent_channels, _LONG, rows, cols, dtype=self.components.dtype, device=self.device
        )
        return inputs | {
            "indices_latents": frames,
            "indices_latents_clean": torch.cat([image, short]),
            "latents_history_2x": blank[:, :, :_MID],
            "indices_latents_history_2x": mid,
            "latents_history_4x": blank,
            "indices_latents_history_4x": long,
        }

    def from_batch(self, batch: Tensor, shape: Sequence[int]) -> Float[Tensor, "latent_frame channel row col"]:
        """Add zeros for the image, which the transformer does not denoise."""
        frames = super().from_batch(batch, shape)
        return torch.cat([frames.new_zeros(shape[0] - len(frames), *frames.shape[1:]), frames])

    def draw_noise(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
        """Draw the noise of the window; the image frame before it has none."""
        return super().draw_noise((shape[0] - 1, *shape[1:]), generator)

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Sample the clip as one window, whatever its length."""
        window = (arguments.pop("num_frames") - 1) // self.temporal_stride
        return super().sample(
            pipeline,
            recorder,
            cfg_scale=cfg_scale,
            latent_window_size=window,
            num_frames=(window - 1) * self.temporal_stride + 1,
            **arguments,
        )
