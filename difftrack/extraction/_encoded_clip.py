"""A clip of which only the latents are kept, each frame encoded alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from difftrack.datasets import ClipOrigin

__all__ = ["EncodedClip"]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedClip:
    """The latents of a clip: enough to run a backbone over it in a tracking view."""

    name: str
    num_frames: int
    height: int
    """Size of the original frames, in pixels."""
    width: int
    latents: Float[Tensor, "latent_frame channel row col"]
    """Latents of every frame, each encoded alone; on the CPU."""
    images: Mapping[int, Float32[np.ndarray, "height width rgb"]]
    """Frames, as the backbone sees them, that an image-to-video backbone may start from."""
    digest: str
    prompt: str = ""
    source: ClipOrigin = "folder"

    def fingerprint(self) -> str:
        """SHA-256 over the frames as the backbone sees them, and the prompt."""
        return self.digest
