"""Sends the frames of a video through an autoencoder without holding the video."""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float32, UInt8
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
) -> EncodedClip:
    """Send the frames of a video through a backbone's autoencoder, a batch at a time, and hold their latents alone.

    The latents are those that `Backbone.encode` gives for all frames at once.

    Args:
        view: A tracking view, whose frames are encoded alone.
        name: Of the clip.
        frames: One by one, at any size, all of the same.
        keep: Frames to be kept as the backbone sees them.

    Raises:
        ValueError: there is no frame.
    """
    backbone, params, kept = view.backbone, view.params, frozenset(keep)
    coming, latents, images, digest, count, size = iter(frames), list[Tensor](), {}, hashlib.sha256(), 0, (0, 0)
    while batch := list(islice(coming, backbone.params.vae_batch_frames)):
        size = batch[0].shape[:2]
        seen = np.concatenate([_working(frame, view) for frame in batch])
        digest.update(seen.tobytes())
        images |= {count + index: frame for index, frame in enumerate(seen) if count + index in kept}
        latents.append(backbone.encode(seen, frames_alone=True).cpu())
        count += len(batch)
    if not count:
        raise ValueError(f"clip {name} has no frame")
    digest.update(json.dumps([count, params.height, params.width]).encode())
    return EncodedClip(name, count, *size, torch.cat(latents), images, digest.hexdigest())


def _working(frame: UInt8[np.ndarray, "row col rgb"], view: BackboneView) -> Float32[np.ndarray, "1 height width rgb"]:
    params = view.params
    return working_frames(frame[None], height=params.height, width=params.width, convention=params.resize)
