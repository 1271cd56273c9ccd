"""Rendered clips with exact tracks, used to measure a network's matching accuracy during training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from difftrack.rendering import (
    SHUTTER_SAMPLES,
    Motion,
    RenderSpec,
    Scene,
    Texture,
    describe,
    exact_tracks,
    layer_textures,
    on_object,
    render_batch,
    sample_scene,
)

__all__ = ["ProbeClip", "probe_clips"]

Mapper = Callable[[Callable[[RenderSpec], Any], Sequence[RenderSpec]], Iterator[Any]]
"""The built-in `map`, or the `map` of a process pool."""


@dataclass(frozen=True, slots=True)
class ProbeClip:
    """A rendered clip with exact tracks of points queried in frame 0."""

    spec: RenderSpec
    frames: UInt8[Tensor, "frame row col rgb"]
    prompt: str
    points_xy_px: Float[np.ndarray, "frame point xy"]
    visible: Bool[np.ndarray, "frame point"]


def probe_clips(
    specs: Sequence[RenderSpec], *, device: torch.device, grid: int = 12, mapper: Mapper = map
) -> list[ProbeClip]:
    """Render clips on the training device and compute the exact tracks of a grid of points.

    In object clips only grid points on an object are kept, unless no grid point lies on one.

    Args:
        specs: The clips to render.
        device: The device that renders.
        grid: Number of points along each axis.
        mapper: Maps the CPU work (textures and tracks) over the specs; a process pool's `map` runs it in parallel.
    """
    clips = []
    for spec, (scene, textures, tracks, visible) in zip(
        specs, mapper(partial(_prepare, grid=grid), specs), strict=True
    ):
        pixels = np.stack([texture.pixels for texture in textures[: scene.num_layers]])
        frames = render_batch(
            Motion.stack([scene], device=device),
            torch.from_numpy(pixels)[None].to(device),
            torch.arange(spec.num_frames, device=device, dtype=torch.float32)[None],
            (spec.height, spec.width),
            shutter_samples=SHUTTER_SAMPLES if scene.shutter > 0 else 1,
        )
        clips.append(ProbeClip(spec, frames[0], describe(spec, scene, textures), tracks, visible))
    return clips


def _prepare(spec: RenderSpec, *, grid: int) -> tuple[Scene, tuple[Texture, ...], np.ndarray, np.ndarray]:
    """Compute on the CPU a clip's scene, textures, tracks and visibility."""
    scene = sample_scene(spec)
    x, y = np.meshgrid((np.arange(grid) + 0.5) * spec.width / grid, (np.arange(grid) + 0.5) * spec.height / grid)
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    if spec.kind == "object" and (chosen := on_object(spec, points)).any():
        points = points[chosen]
    tracks, visible = exact_tracks(spec, np.insert(points, 0, 0, axis=1).astype(np.float32))
    return scene, layer_textures(spec, scene), tracks, visible
