"""Runs a backbone to a step and captures it there, for all architectures."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor, nn

from difftrack.backbones._architecture import Architecture
from difftrack.backbones._capture import CrossAttention, capture_layers
from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._descriptors import LayerDescriptors, SequencePart, TextPosition, tokens_of_clip
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._params import DEFAULT_KINDS, KINDS, CapturedKind, FeatureKind
from difftrack.backbones._prompt_tokens import PromptTemplate, prompt_tokens
from difftrack.backbones._schedule import Schedule
from difftrack.backbones._taps import UNROTATED, Taps
from difftrack.geometry import TokenGrid
from difftrack.text_tokens import TextTokens

__all__ = ["CapturingBackbone"]

_MOST_BATCH_FRAMES = 8
_SAFE_BYTES = 2 * 2**30
_PADDED_FRAMES = 3
"""One frame, and two more that pad a causal convolution of three frames."""
_USUAL_CHANNELS = 128
"""Channels of the first block if an autoencoder's config does not name them."""


class CapturingBackbone(Architecture, ABC):
    """Encodes clips, prompts and images, and runs the transformer on them once."""

    text_position: ClassVar[TextPosition]
    """Place of the text in the attention's sequence."""
    channels_before_frames: ClassVar[bool]
    """Whether the transformer reads `[batch, channel, latent_frame, row, col]`; else frames come first."""

    @property
    def needs_image(self) -> bool:
        """Whether the transformer reads the image that a clip starts from."""
        return False

    @property
    def num_text_tokens(self) -> int:
        """Maximum number of text tokens in the layers' sequence."""
        return 0 if self.text_position == "none" else self.text_length

    def placeholder_prompt(self) -> PromptEmbedding:
        """Return random numbers in place of a prompt of maximum length, to measure without a text encoder."""
        tokens = self.placeholder_tensor(self.text_length, self.text_channels)
        mask = torch.ones(self.text_length, dtype=torch.bool, device=self.device)
        return PromptEmbedding(tokens, mask, extras=self.placeholder_extras())

    def placeholder_latents(
        self, num_latent_frames: int, rows: int, cols: int
    ) -> Float[Tensor, "latent_frame channel row col"]:
        """Return noise in place of a clip's latents."""
        return self.placeholder_tensor(num_latent_frames, self.num_latent_channels, rows, cols)

    def placeholder_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"]
    ) -> ImageConditioning | None:
        """Return random numbers in place of an image, for these latents; None where no image is read."""
        if not self.needs_image:
            return None
        num_latent_frames, channels, rows, cols = latents.shape
        extra = int(self.transformer_config.in_channels) - channels
        return ImageConditioning(self.placeholder_tensor(num_latent_frames, extra, rows, cols))

    def placeholder_extras(self) -> dict[str, Tensor]:
        return {}

    def placeholder_tensor(self, *shape: int) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0))
        return noise.to(self.device, self.components.dtype)

    @abstractmethod
    def embed(self, prompt: str) -> PromptEmbedding:
        """Encode a prompt; warn of the words that are cut if it is longer than `text_length`."""

    @abstractmethod
    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> Schedule:
        """The sampler's levels.

        Args:
            num_inference_steps: Steps from noise to clean latents.
            grid: Grid of the clip; some samplers' levels depend on the number of tokens.
        """

    @abstractmethod
    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        """Text tokens in the sequence that the layers attend over, True where they may be attended to."""

    def cross_text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        """Text tokens of the cross-attention, True where they may be attended to."""
        return prompt.mask

    def text_tokens(self, prompt: str, embedded: PromptEmbedding) -> TextTokens | None:
        """Tell the word of the prompt for each text token that attention sees.

        Args:
            prompt: Prompt given to `embed`.
            embedded: Result of `embed`.

        Returns:
            One entry for each token of `text_mask`, or of `cross_text_mask` where text comes by cross-attention; None
            where the tokenizer cannot tell, or the pipeline has none.
        """
        if "tokenizer" not in self.components.names:
            return None
        mask = self.text_mask(embedded) if self.cross_attention_key is None else self.cross_text_mask(embedded)
        return prompt_tokens(
            self.components["tokenizer"],
            self.prompt_as_read(prompt),
            template=self.prompt_template(),
            text_length=self.text_length,
            num_tokens=len(mask),
        )

    def prompt_as_read(self, prompt: str) -> str:
        """The prompt that the tokenizer reads, after the pipeline's cleaning."""
        return prompt

    def prompt_template(self) -> PromptTemplate | None:
        """What the pipeline puts around a prompt; None where it puts nothing."""
        return None

    @abstractmethod
    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        """Further inputs of the transformer besides latents and timestep, for latents of this size; batch of one."""

    @abstractmethod
    def encode_videos(
        self, videos: Float[Tensor, "batch rgb frame height width"]
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """Scaled posterior modes of videos in [-1, 1]."""

    def completed_inputs(self, inputs: Mapping[str, Any], sampled: Mapping[str, Tensor]) -> dict[str, Any]:
        """Collect the transformer's inputs besides latents.

        Args:
            inputs: The timestep, `transformer_inputs`, and the inputs from an image.
            sampled: Further inputs that sampling used at this step, if the backbone sampled the clip.
        """
        return {**inputs, **sampled}

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        """The timestep as the transformer reads it for one clip."""
        return timestep.expand(1)

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        """All inputs of the transformer at each place of the latents."""
        return latents if conditioning is None else torch.cat([latents, conditioning.latents.to(latents)], dim=1)

    @torch.no_grad()
    def encode(
        self, frames: Num[np.ndarray, "frame height width rgb"], *, frames_alone: bool
    ) -> Float[Tensor, "latent_frame channel row col"]:
        """Encode a clip: the mode of the posterior, scaled.

        Args:
            frames: RGB, 0 ... 255, at a size that `check_size` accepts; any number of them if each is encoded alone.
            frames_alone: Encode each frame by itself, without temporal compression.

        Returns:
            Latents; where a token frame folds several of them, the first is repeated in front so that token frame 0
            holds frame 0 alone (a frame encoded alone is repeated likewise).
        """
        fold = self.latents_per_token_frame
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)
        if frames_alone:
            self.check_image_size(*frames.shape[1:3])
            videos = video.unsqueeze(2).transpose(0, 1)
            most = self.vae_batch(*frames.shape[1:3])
            # On a CPU a batch is not faster, and its size would change the last bits.
            batches = torch.split(videos, 1 if self.device.type == "cpu" else most)
            return torch.cat([self._encode_batch(batch)[:, 0] for batch in batches]).repeat_interleave(fold, dim=0)
        self.check_size(*frames.shape[:3])
        latents = self._encode_batch(video.unsqueeze(0))[0]
        return torch.cat([latents[:1].expand(fold - 1, -1, -1, -1), latents])

    def vae_batch(self, height: int, width: int) -> int:
        """Number of frames of this size in a batch, each encoded by itself.

        diffusers cuts the time axis of a CogVideoX convolution whose input would pass 2 GiB (two bytes a number,
        whatever the dtype), into parts that are shorter than the kernel where there is one frame and its padding.
        Batches stay below that, in every family: the widest layer holds a frame's pixels by the first block's channels.

        Raises:
            BackboneError: even one frame is too large.
        """
        if self.params.vae_tiling:
            height, width = min(height, self._tile("height") or height), min(width, self._tile("width") or width)
        largest = self._most_vae_frames(height, width)
        if largest < 1:
            raise BackboneError(
                f"{self.name}: one frame of {height} x {width} px is more than its autoencoder's convolutions take at "
                "a time; switch vae_tiling on, or choose a smaller size"
            )
        asked = self.params.vae_batch_frames
        return min(_MOST_BATCH_FRAMES if asked == "auto" else asked, largest)

    def frames_of_vae_batch(self, height: int, width: int) -> int:
        """As `vae_batch` without tiles, for any size; loads nothing."""
        asked = self.params.vae_batch_frames
        return max(1, min(_MOST_BATCH_FRAMES if asked == "auto" else asked, self._most_vae_frames(height, width)))

    def _most_vae_frames(self, height: int, width: int) -> int:
        return int(_SAFE_BYTES // (2 * self.vae_channels * _PADDED_FRAMES * height * width))

    @property
    def vae_channels(self) -> int:
        """Channels of the autoencoder's first, largest feature map."""
        config = self.vae_config
        names = ("block_out_channels", "encoder_block_out_channels", "base_dim")
        found = next((value for name in names if (value := config.get(name)) is not None), _USUAL_CHANNELS)
        return int(found if isinstance(found, int) else found[0])

    def _tile(self, side: str) -> int | None:
        """Side length of the autoencoder's tiles in pixels; None without tiles."""
        size = getattr(self.vae if self.params.device != "meta" else None, f"tile_sample_min_{side}", None)
        return None if size is None else int(size)

    def _encode_batch(self, videos: Num[Tensor, "batch rgb frame height width"]) -> Tensor:
        latents = self.encode_videos(videos.to(self.device, self.components.dtype) / 127.5 - 1)
        height, width = videos.shape[3:]
        rows, cols = height // self.spatial_stride, width // self.spatial_stride
        if latents.shape[3:] != (rows, cols):
            raise BackboneError(
                f"{self.name}: its autoencoder gives {latents.shape[3]} x {latents.shape[4]} latents for {height} x "
                f"{width} px instead of {rows} x {cols}: its tiles do not fit this size; switch vae_tiling off"
            )
        return latents

    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        """Encode the image that a clip starts from, for an image-to-video backbone.

        Args:
            image: 0 ... 255, at the size of the clip.
            num_latent_frames: Number of the clip's latent frames, as in the result of `encode`.
            frames_alone: Whether the clip's frames were encoded alone.

        Raises:
            BackboneError: the backbone reads no image.
        """
        raise BackboneError(f"{self.name} makes videos from text alone and reads no image")

    def image_pixels(self, image: Num[np.ndarray, "height width rgb"]) -> Float[Tensor, "1 rgb height width"]:
        """An image in [-1, 1], by the arithmetic of diffusers' own image processor."""
        return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).to(self.device) / 255 * 2 - 1

    def capture(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        step: int,
        schedule: Schedule,
        prompt: PromptEmbedding,
        *,
        layers: Sequence[int],
        kinds: Sequence[CapturedKind] = DEFAULT_KINDS,
        feature: FeatureKind = "heads",
        conditioning: ImageConditioning | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Iterator[LayerDescriptors]:
        """Run one branch at one step, as far as the last requested layer, and return the descriptors.

        All requested layers are held until they are taken; `capture_into` holds one at a time.

        Args:
            latents: Latents that enter the step.
            step: Step of the schedule.
            schedule: From `self.schedule`.
            prompt: From `self.embed`; the empty prompt's embedding gives the unconditional branch.
            layers: 0-based layers.
            kinds: Descriptors to keep. With `cross_query`, `text_key` and `text_mask` are those of the cross-attention.
            feature: Hidden state that is kept as `feature`.
            conditioning: From `self.condition`, for a backbone that `needs_image`.
            inputs: From `Trajectory.inputs_at`, of a clip that the backbone sampled.

        Returns:
            Descriptors in layer order; each is freed when the next is taken.

        Raises:
            BackboneError: a step or layer is out of range, a kind is unknown, or the image is missing.
            CaptureError: a requested layer did not attend exactly once.
        """
        records: deque[LayerDescriptors] = deque()
        self.capture_into(
            records.append,
            latents,
            step,
            schedule,
            prompt,
            layers=layers,
            kinds=kinds,
            feature=feature,
            conditioning=conditioning,
            inputs=inputs,
        )
        return (records.popleft() for _ in range(len(records)))

    def capture_into(
        self,
        sink: Callable[[LayerDescriptors], None],
        latents: Float[Tensor, "latent_frame channel row col"],
        step: int,
        schedule: Schedule,
        prompt: PromptEmbedding,
        *,
        layers: Sequence[int],
        kinds: Sequence[CapturedKind] = DEFAULT_KINDS,
        feature: FeatureKind = "heads",
        conditioning: ImageConditioning | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Like `capture`, but pass each layer's descriptors to `sink` while the layer runs.

        Memory holds one layer's descriptors at a time, and those that the sink keeps. They are views of the model's own
        tensors: a sink that keeps them must copy or reduce them.

        Args:
            sink: Called once for each layer, in order.
            latents: As in `capture`.
            step: As in `capture`.
            schedule: As in `capture`.
            prompt: As in `capture`.
            layers: As in `capture`.
            kinds: As in `capture`.
            feature: As in `capture`.
            conditioning: As in `capture`.
            inputs: As in `capture`.
        """
        schedule.check_step(step)
        transformer = self.transformer_at(schedule.timesteps[step])
        modules = self.attention_of(transformer)
        unknown = sorted(set(layers) - set(range(len(modules))))
        if unknown or not layers:
            raise BackboneError(
                f"layers {unknown or list(layers)} cannot be captured; {self.name} has layers 0 to {len(modules) - 1}"
            )
        if not set(kinds) <= set(KINDS):
            raise BackboneError(f"descriptors {list(kinds)} are not all known; known: {', '.join(KINDS)}")
        cross = None
        if "cross_query" in kinds:
            if not (of_layers := self.cross_attention_of(transformer)):
                raise BackboneError(
                    f"cross_query cannot be captured: {self.name} has no cross-attention; its text tokens are part of "
                    "the joint attention, and every capture includes their keys"
                )
            cross = CrossAttention(
                {layer: of_layers[layer] for layer in sorted(set(layers))},
                self.cross_text_mask(prompt),
                self.text_call,
            )
        capture_layers(
            transformer,
            {layer: modules[layer] for layer in sorted(set(layers))},
            lambda: self.predict(latents, schedule.timesteps[step], prompt, conditioning=conditioning, inputs=inputs),
            sink,
            grid=self.grid_of(latents),
            text_mask=self.text_mask(prompt),
            text_position=self.text_position,
            kinds=tuple(kinds),
            taps=self._taps(transformer, sorted(set(layers)), kinds, feature),
            cross=cross,
            parts=self.sequence_parts(self.grid_of(latents)),
        )

    def sequence_parts(self, grid: TokenGrid) -> tuple[SequencePart, ...]:
        """What the attention's sequence consists of beside the text, in order: the clip, and its history, if any."""
        return (SequencePart(None, grid.num_latent_frames, grid.rows, grid.cols),)

    def num_history_tokens(self, grid: TokenGrid) -> int:
        """Tokens of frames of history in the attention's sequence, which are neither clip nor text."""
        return sum(part.num_tokens for part in self.sequence_parts(grid) if part.name is not None)

    def clip_tokens(
        self, tokens: Float[Tensor, "head token channel"], grid: TokenGrid
    ) -> Float[Tensor, "head video_token channel"]:
        """The tokens of the clip among those of an attention's whole sequence."""
        first = self.num_text_tokens if self.text_position == "first" else 0
        return tokens_of_clip(tokens, self.sequence_parts(grid), first)

    def _taps(
        self,
        transformer: Any,  # noqa: ANN401
        layers: Sequence[int],
        kinds: Sequence[CapturedKind],
        feature: FeatureKind,
    ) -> Taps:
        """Return the modules, besides attention, whose inputs or outputs are captured.

        Raises:
            BackboneError: a layer has no such module.
        """
        attention, unrotated, features = self.attention_of(transformer), {}, {}
        for layer in layers:
            if wanted := [kind for kind in UNROTATED if kind in kinds]:
                pair = self.unrotated_of(attention[layer])
                if pair is None:
                    raise BackboneError(
                        f"{self.name}: the module of layer {layer} that computes {wanted[0]} is not known"
                    )
                unrotated[layer] = {kind: pair[UNROTATED.index(kind)] for kind in wanted}
            if "feature" in kinds and feature != "heads":
                module = self._feature_module(transformer, layer, feature)
                if module is None:
                    raise BackboneError(
                        f"{self.name}: layer {layer} has no MLP of its own, so that feature cannot be {feature}; "
                        f"choose block, attention or heads"
                    )
                features[layer] = module
        return Taps(unrotated, features, takes_in=feature.endswith("_input"))

    def _feature_module(self, transformer: Any, layer: int, feature: FeatureKind) -> nn.Module | None:  # noqa: ANN401
        if feature.startswith("attention"):
            return self.attention_of(transformer)[layer]
        block = self.layers_of(transformer)[layer]
        return block if feature == "block" else self.mlp_of(block)

    @torch.no_grad()
    def predict(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        timestep: Shaped[Tensor, ""],
        prompt: PromptEmbedding,
        *,
        conditioning: ImageConditioning | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "latent_frame channel row col"]:
        """Return the transformer's raw output for one branch, without guidance."""
        if self.needs_image and conditioning is None:
            raise BackboneError(
                f"{self.name} makes videos from an image; pass the result of condition() for the clip's first frame"
            )
        num_latent_frames, _, rows, cols = latents.shape
        read_too = {
            "timestep": self.timestep_input(timestep.to(self.device), self.grid_of(latents)),
            **self.transformer_inputs(prompt, num_latent_frames, rows, cols),
            **(conditioning.extras if conditioning is not None else {}),
        }
        read = self.with_conditioning(latents.to(self.device, self.components.dtype), conditioning)
        transformer = self.transformer_at(timestep)
        completed = self.completed_inputs(read_too, inputs or {})
        output = transformer(hidden_states=self.to_batch(read), return_dict=False, **completed)
        batch = output[0] if isinstance(output, tuple) else output  # Kandinsky 5 returns the tensor itself
        return self.from_batch(batch, latents.shape).to(latents.dtype)

    def grid_of(self, latents: Float[Tensor, "latent_frame channel row col"]) -> TokenGrid:
        """Layout of the tokens of latents."""
        num_latents, _, rows, cols = latents.shape
        return TokenGrid(
            num_latent_frames=num_latents // self.latents_per_token_frame,
            rows=rows // self.patch_size,
            cols=cols // self.patch_size,
            stride_px=self.stride_px,
            temporal_stride=self.frame_period,
        )

    def to_batch(self, latents: Float[Tensor, "latent_frame channel row col"]) -> Tensor:
        """Convert latents to the layout of the transformer and the pipeline, a batch of one."""
        return (latents.transpose(0, 1) if self.channels_before_frames else latents).unsqueeze(0)

    def from_batch(self, batch: Tensor, shape: Sequence[int]) -> Float[Tensor, "latent_frame channel row col"]:
        """Undo `to_batch`, for latents of this shape."""
        return batch[0].transpose(0, 1) if self.channels_before_frames else batch[0]
