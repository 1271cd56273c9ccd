"""What a backbone is: its counts, its strides, and the clips that it can be run on."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from difftrack.backbones._components import Components
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._params import ModelParams
from difftrack.geometry import TokenGrid

__all__ = ["Architecture"]


class Architecture(ABC):
    """One video diffusion transformer and its autoencoder, as their configs describe them; loaded lazily."""

    def __init__(self, name: str, components: Components, params: ModelParams) -> None:
        self.name = name
        self.params = params
        """How it was loaded."""
        self.components = components
        """The stock components."""
        self.library: str | None = None
        """Module of the family's own classes, where it has any."""
        self.made_for: tuple[int, int, int] | None = None
        """(frames, height, width) of the clips that it was trained on, where that is known."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.components.device

    @cached_property
    def fingerprint(self) -> str:
        """Hash of configs and weights."""
        return self.components.fingerprint()

    @property
    def revision(self) -> str | None:
        """Commit of the checkpoint; None for a local folder."""
        return self.components.revision

    @property
    def transformer(self) -> Any:  # noqa: ANN401
        """The stock diffusers transformer."""
        return self.components["transformer"]

    @property
    def vae(self) -> Any:  # noqa: ANN401
        """The stock diffusers autoencoder."""
        return self.components["vae"]

    @property
    def transformer_config(self) -> Any:  # noqa: ANN401
        """Of the transformer, which need not be loaded for it."""
        return self.components.outline("transformer").config

    @property
    def vae_config(self) -> Any:  # noqa: ANN401
        """Of the autoencoder, which need not be loaded for it."""
        return self.components.outline("vae").config

    @property
    def num_layers(self) -> int:
        """Transformer blocks in execution order."""
        return len(self.attention_of(self.components.outline("transformer")))

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer."""
        return int(self.transformer_config.num_attention_heads)

    @property
    def num_channels(self) -> int:
        """Channels of one head."""
        return int(self.transformer_config.attention_head_dim)

    @property
    def num_latent_channels(self) -> int:
        """Channels of the latents that are denoised."""
        config = self.transformer_config
        return int(config.out_channels or config.in_channels)

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Latent pixels per token along both image axes."""

    @property
    def latents_per_token_frame(self) -> int:
        """Latent frames that one token frame folds together."""
        return 1

    @property
    @abstractmethod
    def spatial_stride(self) -> int:
        """Pixels per latent pixel."""

    @property
    @abstractmethod
    def temporal_stride(self) -> int:
        """Frames per latent frame after the first."""

    @property
    def text_length(self) -> int:
        """Text tokens that a prompt is padded or cut to; the stock pipeline's own default."""
        call = inspect.signature(self.components.pipeline_class.__call__)
        return int(call.parameters["max_sequence_length"].default)

    @property
    def stride_px(self) -> int:
        """Pixels per token along both image axes."""
        return self.spatial_stride * self.patch_size

    def attention_modules(self) -> Sequence[nn.Module]:
        """The attention over video tokens of every layer, in execution order."""
        return self.attention_of(self.transformer)

    @abstractmethod
    def attention_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        """The attention modules of a transformer of this class, with memory or without."""

    @property
    def frame_period(self) -> int:
        """Video frames per token frame after the first."""
        return self.temporal_stride * self.latents_per_token_frame

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `BackboneError`, saying what is allowed, unless images of this size in pixels can be run."""
        for axis, size in (("height", height), ("width", width)):
            if size < self.stride_px or size % self.stride_px:
                below = max(size // self.stride_px, 1) * self.stride_px
                raise BackboneError(
                    f"{axis} {size} does not suit {self.name}: it must be a multiple of {self.stride_px}, such as "
                    f"{below} or {below + self.stride_px}"
                )

    def check_size(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> None:
        """Raise `BackboneError`, saying what is allowed, unless clips of this size can be run."""
        self.check_image_size(height, width)
        if num_frames < 1:
            raise BackboneError(f"num_frames is {num_frames}; it must be at least 1")
        period, rest = self.frame_period, self.frames_past_period
        if not frames_alone and num_frames % period != rest % period:
            below = max((num_frames - rest) // period * period + rest, rest or period)
            nearest = below if num_frames - below <= period // 2 else below + period
            pattern = f"{period} k + {rest}" if rest else f"a multiple of {period}"
            raise BackboneError(
                f"num_frames {num_frames} does not suit {self.name}: it must be {pattern}; nearest: {nearest}"
            )

    @property
    def frames_past_period(self) -> int:
        """Frames that a clip encoded whole has beyond a multiple of `frame_period`: the first, encoded by itself."""
        return 1

    @property
    def native_latent_frames(self) -> int:
        """Latent frames of the clips that it was trained on; 13, as for CogVideoX, where nobody knows."""
        if self.made_for is None:
            return 13
        return self.token_grid(*self.made_for).num_latent_frames * self.latents_per_token_frame

    @property
    def native_token_frames(self) -> int:
        """Token frames of those clips: with frames alone, how many frames run together as in training."""
        return -(-self.native_latent_frames // self.latents_per_token_frame)

    def token_grid(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> TokenGrid:
        """Layout of the video tokens of a clip.

        Args:
            num_frames: Video frames.
            height: In pixels.
            width: In pixels.
            frames_alone: Each frame encoded by itself, so that frames and token frames are the same.

        Raises:
            BackboneError: the backbone cannot run this size.
        """
        self.check_size(num_frames, height, width, frames_alone=frames_alone)
        period = 1 if frames_alone else self.frame_period
        first = 1 if frames_alone else self.frames_past_period or period
        return TokenGrid(
            num_latent_frames=(num_frames - first) // period + 1,
            rows=height // self.stride_px,
            cols=width // self.stride_px,
            stride_px=self.stride_px,
            temporal_stride=period,
            first_frames=first,
        )
