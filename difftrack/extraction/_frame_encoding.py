"""Encodes the frames of a video without holding the video in memory."""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from difftrack.datasets import working_frames
from difftrack.extraction._encoded_clip import EncodedClip
from difftrack.extraction._view import BackboneView

__all__ = ["encode_frames"]


def encode_frames(
    view: BackboneView,
    name: str,
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
    *,
    keep: Iterable[int] = (0,),
    expected: int | None = None,
) -> EncodedClip:
    """Encode the frames of a video with a backbone's autoencoder, batch by batch, and keep only the latents.

    The latents are those that `Backbone.encode` gives for all frames at once.

    Args:
        view: A tracking view, whose frames are encoded alone.
        name: Name of the clip.
        frames: Frames one by one, of any size, but all of the same.
        keep: Indices of frames to keep as the backbone sees them.
        expected: Number of frames, if known: it avoids a second copy of the latents.

    Raises:
        ValueError: `frames` is empty.
    """
    backbone, params, kept = view.backbone, view.params, frozenset(keep)
    batch_size = backbone.vae_batch(params.height, params.width)
    images: dict[int, np.ndarray] = {}
    coming, latents, digest, count, size = iter(frames), _Latents(expected), hashlib.sha256(), 0, (0, 0)
    while batch := list(islice(coming, batch_size)):
        size = batch[0].shape[:2]
        seen = np.concatenate([_working(frame, view) for frame in batch])
        digest.update(seen.tobytes())
        images |= {count + index: frame for index, frame in enumerate(seen) if count + index in kept}
        latents.add(backbone.encode(seen, frames_alone=True).cpu(), num_frames=len(batch))
        count += len(batch)
    if not count:
        raise ValueError(f"clip {name} has no frames")
    digest.update(json.dumps([count, params.height, params.width]).encode())
    return EncodedClip(name, count, *size, latents.all(), images, digest.hexdigest())


class _Latents:
    """Collects latents in one tensor of the expected length; further ones are appended at the end.

    Args:
        expected: Number of frames; None if unknown.
    """

    def __init__(self, expected: int | None) -> None:
        self._expected = expected or 0
        self._held = torch.empty(0)
        self._used = 0
        self._beyond: list[Tensor] = []

    def add(self, latents: Float[Tensor, "latent_frame channel row col"], *, num_frames: int) -> None:
        """Add the latents of the next frames."""
        if not self._used and not self._beyond:
            self._held = latents.new_empty(self._expected * (len(latents) // num_frames), *latents.shape[1:])
        room = self._held[self._used : self._used + len(latents)]
        room.copy_(latents[: len(room)])
        self._used += len(room)
        if len(room) < len(latents):
            self._beyond.append(latents[len(room) :])

    def all(self) -> Float[Tensor, "latent_frame channel row col"]:
        """Return the latents of all frames."""
        held = self._held[: self._used]
        return torch.cat([held, *self._beyond]) if self._beyond else held


def _working(frame: UInt8[np.ndarray, "row col rgb"], view: BackboneView) -> Float32[np.ndarray, "1 height width rgb"]:
    params = view.params
    return working_frames(frame[None], height=params.height, width=params.width, convention=params.resize)
