"""What every backbone can do, whatever its architecture."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float, Num, Shaped, UInt8
from torch import Tensor

from difftrack.backbones._architecture import Architecture
from difftrack.backbones._capture import capture_layers
from difftrack.backbones._descriptors import KINDS, Kind, LayerDescriptors, TextPosition
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder, to_uint8
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


class Backbone(Architecture):
    """One video diffusion transformer, its autoencoder, text encoder and sampler, loaded lazily.

    Latents are `[latent_frame, channel, row, col]`, scaled as the transformer wants them. Where the transformer folds
    several latent frames into one token frame (CogVideoX 1.5), `latents_per_token_frame` says how many.
    """

    text_position: ClassVar[TextPosition]
    """Where text stands in the attention's sequence."""
    channels_before_frames: ClassVar[bool]
    """Whether the transformer reads `[batch, channel, latent_frame, row, col]`; else frames come first."""
    samples_in_own_dtype: ClassVar[bool] = False
    """Whether the stock pipeline keeps latents in the weights' dtype between steps; else in float32."""

    @abstractmethod
    def embed(self, prompt: str) -> PromptEmbedding:
        """Encode a prompt; warn, naming what is cut, where it is longer than `text_length`."""

    @abstractmethod
    def schedule(self, num_inference_steps: int) -> Schedule:
        """The sampler's levels."""

    @abstractmethod
    def _transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        """What the transformer reads besides latents and timestep, for latents of this size; batch of one."""

    @abstractmethod
    def _sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        """What the stock pipeline reads in place of a prompt and a negative prompt."""

    def _sampling_scheduler(self) -> Any:  # noqa: ANN401
        """The scheduler whose levels `schedule` gives, to sample with."""
        return self.components.scheduler()

    def _timestep_input(self, timestep: Shaped[Tensor, ""], num_tokens: int) -> Tensor:
        """The timestep as the transformer reads it for one clip of so many video tokens."""
        return timestep.expand(1)

    @abstractmethod
    def _encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """Scaled posterior modes of videos in [-1, 1]."""

    @abstractmethod
    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        """Text tokens in the sequence that the layers attend over, True where they may be attended to."""

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
            batches = torch.split(videos, self.params.vae_batch_frames)
            return torch.cat([self._encode_batch(batch)[:, 0] for batch in batches]).repeat_interleave(fold, dim=0)
        latents = self._encode_batch(video.unsqueeze(0))[0]
        return torch.cat([latents[:1].expand(fold - 1, -1, -1, -1), latents])

    def _encode_batch(self, videos: Num[Tensor, "batch rgb frame height width"]) -> Tensor:
        return self._encode_videos(videos.to(self.device, self.components.dtype) / 127.5 - 1)

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

    @torch.no_grad()
    def predict(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        timestep: Shaped[Tensor, ""],
        prompt: PromptEmbedding,
    ) -> Float[Tensor, "latent_frame channel row col"]:
        """The transformer's raw output for one branch, no guidance."""
        num_latent_frames, _, rows, cols = latents.shape
        num_tokens = num_latent_frames * rows * cols // (self.latents_per_token_frame * self.patch_size**2)
        inputs = {
            "timestep": self._timestep_input(timestep.to(self.device), num_tokens),
            **self._transformer_inputs(prompt, num_latent_frames, rows, cols),
        }
        batch = self._to_batch(latents.to(self.device, self.components.dtype))
        output = self.transformer(hidden_states=batch, return_dict=False, **inputs)[0]
        return self._from_batch(output).to(latents.dtype)

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
        """Sample a clip through the stock pipeline, and record the latents that enter every step.

        Args:
            prompt: What to show.
            seed: Of the initial noise, drawn on the CPU so that every device starts alike.
            num_inference_steps: Denoising steps.
            cfg_scale: Guidance scale, as the stock pipeline means it.
            num_frames: Video frames.
            height: In pixels.
            width: In pixels.

        Raises:
            BackboneError: the backbone cannot run this size.
        """
        grid = self.token_grid(num_frames, height, width)
        shape = (
            grid.num_latent_frames * self.latents_per_token_frame,
            int(self.transformer.config.out_channels),
            height // self.spatial_stride,
            width // self.spatial_stride,
        )
        noise = randn_tensor(
            self._to_batch(torch.empty(shape, device="meta")).shape,
            generator=torch.Generator("cpu").manual_seed(seed),
            device=self.device,
            dtype=self.components.dtype if self.samples_in_own_dtype else torch.float32,
        )
        recorder = TrajectoryRecorder(noise)
        pipeline = self.components.pipeline(scheduler=self._sampling_scheduler(), with_text=False)
        frames = pipeline(
            **self._sampling_inputs(self.embed(prompt)),
            latents=noise,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=cfg_scale,
            callback_on_step_end=recorder,
            output_type="np",
        ).frames[0]
        trajectory = torch.stack([self._from_batch(latents) for latents in recorder.entering])
        return Generated(frames=to_uint8(frames), trajectory=trajectory)

    def _to_batch(self, latents: Float[Tensor, "latent_frame channel row col"]) -> Tensor:
        """As the transformer and the pipeline lay latents out, a batch of one."""
        return (latents.transpose(0, 1) if self.channels_before_frames else latents).unsqueeze(0)

    def _from_batch(self, batch: Tensor) -> Float[Tensor, "latent_frame channel row col"]:
        return batch[0].transpose(0, 1) if self.channels_before_frames else batch[0]

    def _warn_where_cut(self, prompt: str) -> None:
        tokenizer = self.components["tokenizer"]
        ids = tokenizer(prompt).input_ids
        if len(ids) > self.text_length:
            cut = tokenizer.decode(ids[self.text_length - 1 :], skip_special_tokens=True)
            message = f"{self.name} reads {self.text_length} text tokens; cut from the prompt: {cut!r}"
            warnings.warn(message, stacklevel=3)
