"""Inputs of a transformer besides noisy latents and a timestep, and the results of sampling."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

__all__ = ["Generated", "ImageConditioning", "PromptEmbedding", "Trajectory"]


@dataclass(frozen=True, slots=True)
class PromptEmbedding:
    """A prompt as the transformer reads it."""

    tokens: Float[Tensor, "text_token channel"]
    mask: Bool[Tensor, " text_token"]
    """True on tokens of the prompt, False on padding that the model masks (all True if it masks none)."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further inputs that an architecture derives from the prompt, by the transformer's argument name, batch of one."""


@dataclass(frozen=True, slots=True)
class ImageConditioning:
    """The image that a clip starts from, as an image-to-video transformer reads it."""

    latents: Float[Tensor, "latent_frame channel row col"]
    """Channels that are added to the noisy ones; or, for Wan 2.2 TI2V, the latents that replace the first frame's."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further inputs, by the transformer's argument name, batch of one."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The latents that a sampled clip went through."""

    latents: Float[Tensor, "step latent_frame channel row col"]
    """Latents that entered each step, as the transformer reads them."""
    image: UInt8[np.ndarray, "height width rgb"] | None = None
    """The image that an image-to-video backbone started from, at the size of the clip."""
    inputs: Mapping[str, Float[Tensor, "step ..."]] = field(default_factory=dict)
    """Other inputs that changed between steps, by the transformer's argument name: the sound of LTX-2."""

    def inputs_at(self, step: int) -> dict[str, Tensor]:
        """Return these inputs at one step, batch of one."""
        return {name: values[step] for name, values in self.inputs.items()}


@dataclass(frozen=True, slots=True)
class Generated:
    """A sampled clip."""

    frames: UInt8[np.ndarray, "frame height width rgb"]
    trajectory: Trajectory
