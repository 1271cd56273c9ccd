"""Describes a backbone: its counts, its strides, and the clips that it can run."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from difftrack.backbones._compiled import compile_blocks
from difftrack.backbones._components import Components
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._params import ModelParams
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["Architecture"]


class Architecture:
    """One video diffusion transformer and its autoencoder, as their configs describe them; loaded lazily.

    A family whose configs use other names sets the class attributes that end in `_key`; without such an entry it
    overrides the property.
    """

    layers_key: ClassVar[Sequence[str]] = ("transformer_blocks",)
    """Attributes of the transformer that hold its layers, in execution order."""
    attention_key: ClassVar[str] = "attn1"
    """Attribute of a layer that holds its attention over video tokens."""
    cross_attention_key: ClassVar[str | None] = None
    """Attribute of a layer that holds its cross-attention from video tokens to the text; None where text tokens are
    part of the joint attention.
    """
    mlp_keys: ClassVar[Sequence[str]] = ("ff", "ffn", "feed_forward", "mlp")
    """Attributes of a layer that may hold its MLP over video tokens; the first that exists counts."""
    unrotated_keys: ClassVar[Sequence[tuple[str, str]]] = (
        ("norm_q", "norm_k"),
        ("query_norm", "key_norm"),
        ("to_q", "to_k"),
    )
    """Attributes of an attention module whose outputs are its queries and keys before rotary positions turn them; the
    first pair that exists counts.
    """
    num_heads_key: ClassVar[str] = "num_attention_heads"
    """Entry of the transformer's config: attention heads of a layer."""
    num_channels_key: ClassVar[str] = "attention_head_dim"
    """Entry of the transformer's config: channels of one head."""
    patch_size_key: ClassVar[str] = "patch_size"
    """Entry of the transformer's config: latent pixels per token, one number or (latent frames, rows, cols)."""
    patch_frames_key: ClassVar[str] = "patch_size_t"
    """Entry of the transformer's config: latent frames per token frame, where `patch_size_key` does not hold them."""
    text_channels_key: ClassVar[str] = "text_embed_dim"
    """Entry of the transformer's config: channels of a prompt's tokens."""
    spatial_stride_key: ClassVar[str] = "spatial_compression_ratio"
    """Entry of the autoencoder's config, or attribute of it: pixels per latent pixel."""
    temporal_stride_key: ClassVar[str] = "temporal_compression_ratio"
    """Entry of the autoencoder's config, or attribute of it: frames per latent frame after the first."""

    def __init__(self, name: str, components: Components, params: ModelParams) -> None:
        self.name = name
        self.params = params
        """Params that it was loaded with."""
        self.components = components
        """The stock components."""
        self.library: str | None = None
        """Module of the family's own classes, where it has any."""
        self.made_for: tuple[int, int, int] | None = None
        """(frames, height, width) of the clips that it was trained on, if known."""
        self.remarks: tuple[str, ...] = ()
        """Remarks about its loading for the user, one per line."""

    @property
    def device(self) -> torch.device:
        """Device that it runs on."""
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
    def experts(self) -> Mapping[str, str]:
        """Transformers that share the steps, by component name; empty where one transformer runs all."""
        return {}

    def expert_at(self, timestep: Shaped[Tensor, ""]) -> str | None:
        """The one of `experts` that runs at a timestep; None where one transformer runs all."""
        return None

    def transformer_at(self, timestep: Shaped[Tensor, ""]) -> Any:  # noqa: ANN401
        """The transformer that runs at a timestep."""
        expert = self.expert_at(timestep)
        return self.transformer if expert is None else self.components[self.experts[expert]]

    def all_transformers(self) -> list[Any]:
        """The transformer, or the experts in the order in which they sample."""
        return [self.components[component] for component in self.experts.values() or ("transformer",)]

    @property
    def vae(self) -> Any:  # noqa: ANN401
        """The stock diffusers autoencoder."""
        return self.components["vae"]

    @property
    def transformer_config(self) -> Any:  # noqa: ANN401
        """Config of the transformer, available without loading its weights."""
        return self.components.outline("transformer").config

    @property
    def vae_config(self) -> Any:  # noqa: ANN401
        """Config of the autoencoder, available without loading its weights."""
        return self.components.outline("vae").config

    @property
    def num_layers(self) -> int:
        """Transformer blocks in execution order."""
        return len(self.attention_of(self.components.outline("transformer")))

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer."""
        return int(self._of_transformer(self.num_heads_key))

    @property
    def num_channels(self) -> int:
        """Channels of one head."""
        return int(self._of_transformer(self.num_channels_key))

    @property
    def num_latent_channels(self) -> int:
        """Channels of the latents that are denoised."""
        config = self.transformer_config
        return int(config.out_channels or config.in_channels)

    @property
    def patch_size(self) -> int:
        """Latent pixels per token along both image axes."""
        size = self._of_transformer(self.patch_size_key)
        return int(size[-1] if isinstance(size, Sequence) else size)

    @property
    def latents_per_token_frame(self) -> int:
        """Latent frames that one token frame folds together."""
        size = self._of_transformer(self.patch_size_key)
        if isinstance(size, Sequence):
            return int(size[0])
        return int(self.transformer_config.get(self.patch_frames_key) or 1)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent pixel."""
        return self._of_autoencoder(self.spatial_stride_key)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame after the first."""
        return self._of_autoencoder(self.temporal_stride_key)

    @property
    def text_channels(self) -> int:
        """Channels of a prompt's tokens."""
        return int(self._of_transformer(self.text_channels_key))

    @property
    def text_length(self) -> int:
        """Text tokens that a prompt is padded or cut to; the stock pipeline's own default."""
        call = inspect.signature(self.components.pipeline_class.__call__)
        return int(call.parameters["max_sequence_length"].default)

    @property
    def held_states(self) -> int:
        """Hidden states of all tokens that a forward pass holds from its beginning on, beside that of the layer."""
        return 0

    @property
    def stride_px(self) -> int:
        """Pixels per token along both image axes."""
        return self.spatial_stride * self.patch_size

    @property
    def rotary(self) -> RotaryLayout | None:
        """Channels of queries and keys that rotary positions turn, where each pair turns with one axis; else None.

        `difftrack.testing.BackboneLaws` compares a layout with the transformer. None means no rotary positions, or
        positions that mix axes (Mochi) or run over the channels of all heads together (LTX).
        """
        return None

    def attention_modules(self) -> Sequence[nn.Module]:
        """The attention over video tokens of every layer, in execution order.

        Where experts share the steps, a layer is the list of its attention in each of them; `intercept` takes that too.
        """
        if not self.experts:
            return self.attention_of(self.transformer)
        of_experts = (self.attention_of(self.components[component]) for component in self.experts.values())
        return [nn.ModuleList(modules) for modules in zip(*of_experts, strict=True)]

    def attention_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        """The attention modules of a transformer of this class, with memory or without."""
        return [getattr(layer, self.attention_key) for layer in self.layers_of(transformer)]

    def layers_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        """The layers of a transformer of this class, in execution order; each holds its attention and its MLP."""
        return [layer for key in self.layers_key for layer in getattr(transformer, key)]

    def mlp_of(self, layer: nn.Module) -> nn.Module | None:
        """The MLP over video tokens of a layer; None where it has no module of its own."""
        found = (getattr(layer, key, None) for key in self.mlp_keys)
        return next((module for module in found if module is not None), None)

    def unrotated_of(self, attention: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """The modules whose outputs are queries and keys before rotary positions turn them; None if unknown."""
        pairs = ((getattr(attention, query, None), getattr(attention, key, None)) for query, key in self.unrotated_keys)
        return next(((query, key) for query, key in pairs if query is not None and key is not None), None)

    def cross_attention_of(self, transformer: Any) -> Sequence[nn.Module]:  # noqa: ANN401
        """The cross-attention to the text of every layer, in execution order; none where text is in the joint one."""
        if self.cross_attention_key is None:
            return []
        return [getattr(layer, self.cross_attention_key) for layer in self.layers_of(transformer)]

    @property
    def text_call(self) -> int:
        """Index of a cross-attention module's call to the text, from 0: images may have a call, too."""
        return 0

    def compile_layers(self, transformer: nn.Module) -> None:
        """Compile the layers of a transformer of this class in place, for `ModelParams.compile`."""
        layers = [layer for key in self.layers_key for layer in getattr(transformer, key)]
        compile_blocks(layers, self.attention_of(transformer))

    def _of_transformer(self, key: str) -> Any:  # noqa: ANN401
        """An entry of the transformer's config.

        Raises:
            BackboneError: the config has no such entry.
        """
        if (value := self.transformer_config.get(key)) is None:
            raise BackboneError(
                f"{self.name}: the config of its transformer has no {key}; this release of diffusers uses another name"
            )
        return value

    def _of_autoencoder(self, key: str) -> int:
        """An entry of the autoencoder's config, or an attribute that the autoencoder derives from several entries.

        Raises:
            BackboneError: neither exists.
        """
        value = self.vae_config.get(key)
        value = getattr(self.components.outline("vae"), key, None) if value is None else value
        if value is None:
            raise BackboneError(
                f"{self.name}: its autoencoder has no {key}; this release of diffusers uses another name"
            )
        return int(value)

    @property
    def frame_period(self) -> int:
        """Video frames per token frame after the first."""
        return self.temporal_stride * self.latents_per_token_frame

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `BackboneError`, naming allowed sizes, unless images of this size in pixels can be run."""
        for axis, size in (("height", height), ("width", width)):
            if size < self.stride_px or size % self.stride_px:
                below = max(size // self.stride_px, 1) * self.stride_px
                raise BackboneError(
                    f"{axis} {size} does not suit {self.name}: it must be a multiple of {self.stride_px}, such as "
                    f"{below} or {below + self.stride_px}"
                )

    def check_size(self, num_frames: int, height: int, width: int, *, frames_alone: bool = False) -> None:
        """Raise `BackboneError`, naming allowed sizes, unless clips of this size can be run."""
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
        """Latent frames of the clips that it was trained on; 13, as for CogVideoX, where this is unknown."""
        if self.made_for is None:
            return 13
        return self.token_grid(*self.made_for).num_latent_frames * self.latents_per_token_frame

    @property
    def native_token_frames(self) -> int:
        """Token frames of those clips: the number of single frames that run together as in training."""
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
