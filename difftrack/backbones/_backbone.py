"""What every backbone can do, whatever its architecture."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Num, Shaped, UInt8
from torch import Tensor, nn

from difftrack.backbones._capture import capture_layers
from difftrack.backbones._descriptors import KINDS, Kind, LayerDescriptors, TextPosition
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._folder import PipelineFolder
from difftrack.backbones._params import ModelParams
from difftrack.backbones._schedule import Schedule
from difftrack.geometry import TokenGrid

__all__ = ["Backbone", "Generated", "PromptEmbedding"]


@dataclass(frozen=True, slots=True)
class PromptEmbedding:
    """A prompt as the transformer reads it."""

    tokens: Float[Tensor, "text_token channel"]
    mask: Bool[Tensor, " text_token"]
    """True on tokens of the prompt, False on padding that the model masks (all True where it masks none)."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further inputs that an architecture derives from the prompt, by the transformer's argument name, batch of one."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A sampled clip and the latents it went through."""

    frames: UInt8[np.ndarray, "frame height width rgb"]
    trajectory: Float[Tensor, "step latent_frame channel row col"]
    """Latents that entered each step."""


class Backbone(ABC):
    """One video diffusion transformer, its autoencoder, text encoder and sampler, loaded lazily.

    Latents are `[latent_frame, channel, row, col]`, scaled as the transformer wants them. Where the transformer folds
    several latent frames into one token frame (CogVideoX 1.5), `latents_per_token_frame` says how many.
    """

    text_position: ClassVar[TextPosition]

    def __init__(self, name: str, folder: PipelineFolder, params: ModelParams) -> None:
        self.name = name
        self.device = params.torch_device()
        self.dtype = params.torch_dtype()
        self._folder = folder
        self._params = params
        self._loaded: dict[str, Any] = {}
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of configs and weights."""
        if self._fingerprint is None:
            self._fingerprint = self._folder.fingerprint()
        return self._fingerprint

    @property
    def revision(self) -> str | None:
        """Commit of the checkpoint; None for a local folder."""
        return self._folder.revision

    @property
    def params(self) -> ModelParams:
        """How it was loaded."""
        return self._params

    @property
    def transformer(self) -> nn.Module:
        """The stock diffusers transformer."""
        transformer: nn.Module = self._component("transformer")
        return transformer

    @property
    def num_layers(self) -> int:
        """Transformer blocks in execution order."""
        return len(self.attention_modules())

    @property
    @abstractmethod
    def num_heads(self) -> int:
        """Attention heads of a layer."""

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """Channels of one head."""

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
    @abstractmethod
    def text_length(self) -> int:
        """Text tokens that a prompt is padded or cut to."""

    @property
    def stride_px(self) -> int:
        """Pixels per token along both image axes."""
        return self.spatial_stride * self.patch_size

    @abstractmethod
    def attention_modules(self) -> Sequence[nn.Module]:
        """The attention over video tokens of every layer, in execution order."""

    @abstractmethod
    def embed(self, prompt: str) -> PromptEmbedding:
        """Encode a prompt; warn, naming what is cut, where it is longer than `text_length`."""

    @abstractmethod
    def schedule(self, num_inference_steps: int, *, num_tokens: int | None = None) -> Schedule:
        """The sampler's levels; `num_tokens` matters where the shift depends on the size."""

    @abstractmethod
    def predict(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        timestep: Shaped[Tensor, ""],
        prompt: PromptEmbedding,
    ) -> Float[Tensor, "latent_frame channel row col"]:
        """The transformer's raw output for one branch, no guidance."""

    @abstractmethod
    def generate(
        self,
        prompt: str,
        *,
        seed: int,
        num_inference_steps: int,
        cfg_scale: float,
        num_frames: int,
        height: int,
        width: int,
    ) -> Generated:
        """Sample a clip through the stock pipeline, and record the latents that enter every step."""

    @abstractmethod
    def _encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """Scaled posterior modes of videos in [-1, 1]."""

    @abstractmethod
    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        """Text tokens in the sequence that the layers attend over, True where they may be attended to."""

    def check_size(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> None:
        """Raise `BackboneError`, saying what is allowed, unless clips of this size can be run."""
        for axis, size in (("height", height), ("width", width)):
            if size < self.stride_px or size % self.stride_px:
                below = max(size // self.stride_px, 1) * self.stride_px
                raise BackboneError(
                    f"{axis} {size} does not suit {self.name}: it must be a multiple of {self.stride_px}, such as "
                    f"{below} or {below + self.stride_px}"
                )
        if num_frames < 1:
            raise BackboneError(f"num_frames is {num_frames}; it must be at least 1")
        period = self.temporal_stride * self.latents_per_token_frame
        if not frames_alone and num_frames % period != 1 % period:
            below = max((num_frames - 1) // period * period + 1, 1)
            nearest = below if num_frames - below <= period // 2 else below + period
            raise BackboneError(
                f"num_frames {num_frames} does not suit {self.name}: it must be {period} k + 1; nearest: {nearest}"
            )

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
        period = 1 if frames_alone else self.temporal_stride * self.latents_per_token_frame
        return TokenGrid(
            num_latent_frames=(num_frames - 1) // period + 1,
            rows=height // self.stride_px,
            cols=width // self.stride_px,
            stride_px=self.stride_px,
            temporal_stride=period,
        )

    @torch.no_grad()
    def encode(
        self, frames: Num[np.ndarray, "frame height width rgb"], *, frames_alone: bool
    ) -> Float[Tensor, "latent_frame channel row col"]:
        """Encode a clip: the mode of the posterior, scaled.

        Args:
            frames: RGB, 0 ... 255, at a size that `check_size` passes.
            frames_alone: Encode each frame by itself, without temporal compression.

        Returns:
            Latents; where a token frame folds several of them, the first is repeated in front so that token frame 0
            holds frame 0 alone (a frame encoded alone is repeated likewise).
        """
        num_frames, height, width, _ = frames.shape
        self.check_size(num_frames, height, width, frames_alone=frames_alone)
        fold = self.latents_per_token_frame
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)
        if frames_alone:
            videos = video.unsqueeze(2).transpose(0, 1)
            batches = torch.split(videos, self._params.vae_batch_frames)
            return torch.cat([self._encode_batch(batch)[:, 0] for batch in batches]).repeat_interleave(fold, dim=0)
        latents = self._encode_batch(video.unsqueeze(0))[0]
        return torch.cat([latents[:1].expand(fold - 1, -1, -1, -1), latents])

    def _encode_batch(self, videos: Num[Tensor, "batch rgb frame height width"]) -> Tensor:
        return self._encode_videos(videos.to(self.device, self.dtype) / 127.5 - 1)

    def capture(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        step: int,
        schedule: Schedule,
        prompt: PromptEmbedding,
        *,
        layers: Sequence[int],
        kinds: Sequence[Kind] = KINDS,
    ) -> Iterator[LayerDescriptors]:
        """Run one branch at one step and give the descriptors of the wanted layers, nothing past the last of them.

        Args:
            latents: Latents that enter the step.
            step: Step of the schedule.
            schedule: From `self.schedule`.
            prompt: From `self.embed`; the empty prompt's embedding gives the unconditional branch.
            layers: 0-based layers.
            kinds: Descriptors to keep.

        Returns:
            Descriptors in layer order; each is let go of when the next is taken.

        Raises:
            BackboneError: a step or layer is out of range, or a kind is unknown.
            CaptureError: a wanted layer's attention was not seen exactly once.
        """
        schedule.check_step(step)
        modules = self.attention_modules()
        unknown = sorted(set(layers) - set(range(len(modules))))
        if unknown or not layers:
            raise BackboneError(
                f"layers {unknown or list(layers)} cannot be captured; {self.name} has layers 0 to {len(modules) - 1}"
            )
        if not set(kinds) <= set(KINDS):
            raise BackboneError(f"descriptors {list(kinds)} are not all known; known: {', '.join(KINDS)}")
        num_latents, _, rows, cols = latents.shape
        grid = TokenGrid(
            num_latent_frames=num_latents // self.latents_per_token_frame,
            rows=rows // self.patch_size,
            cols=cols // self.patch_size,
            stride_px=self.stride_px,
            temporal_stride=self.temporal_stride,
        )
        return capture_layers(
            self.transformer,
            {layer: modules[layer] for layer in sorted(set(layers))},
            lambda: self.predict(latents, schedule.timesteps[step], prompt),
            grid=grid,
            text_mask=self.text_mask(prompt),
            text_position=self.text_position,
            kinds=tuple(kinds),
        )

    def _component(self, component: str) -> Any:  # noqa: ANN401
        """A component, loaded and placed at its first use."""
        if component not in self._loaded:
            loaded = self._folder.load(component, dtype=self.dtype)
            if isinstance(loaded, nn.Module):
                loaded = loaded.requires_grad_(requires_grad=False).to(self.device)
            if component == "vae":
                if self._params.vae_tiling:
                    loaded.enable_tiling()
                if self._params.vae_slicing:
                    loaded.enable_slicing()
            self._loaded[component] = loaded
        return self._loaded[component]

    def _release_text_encoder(self) -> None:
        if self._params.release_text_encoder:
            self._loaded.pop("text_encoder", None)
