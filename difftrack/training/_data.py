"""Training clips: scenes drawn by many processes, rendered and encoded on the device that trains."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from difftrack.rendering import Motion, RenderSpec, Role, Scene, draw_layer, make_texture, render_batch, sample_scene
from difftrack.rendering._prompt import describe
from difftrack.rendering._textures import Texture

__all__ = ["ClipBatch", "ClipStream", "frame_times"]


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Rendered clips on the training device, and what they show."""

    frames: UInt8[Tensor, "clip frame row col rgb"]
    prompts: tuple[str, ...]
    specs: tuple[RenderSpec, ...]


class ClipStream:
    """Endless batches of rendered clips of one role, easy and hard, object and scene.

    Textures come from a bank drawn once, so that a scene costs its motion only.
    """

    def __init__(
        self, *, role: Role, num_textures: int, device: torch.device, size: tuple[int, int], seed: int
    ) -> None:
        self._role: Role = role
        self._device = device
        self._size = size
        self._num_textures = num_textures
        self._next_seed = seed
        context = get_context("forkserver")
        context.set_forkserver_preload(["difftrack.training._data"])
        self._pool = ProcessPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), mp_context=context)
        jobs = [(role, index, repetitive) for repetitive in (False, True) for index in range(num_textures)]
        self._textures: list[Texture] = list(self._pool.map(_make_texture, jobs, chunksize=32))
        self._bank = torch.from_numpy(np.stack([texture.pixels for texture in self._textures])).to(device)
        self._draw = torch.compile(draw_layer) if device.type == "cuda" else draw_layer

    def batches(self, batch_size: int, times: str, num_frames: int) -> Iterator[ClipBatch]:
        """Yield batches without end; each batch is all easy or all hard.

        Args:
            batch_size: Clips per batch.
            times: `whole` for consecutive frames, `apart` for the frames of tracking chunks (see `frame_times`).
            num_frames: Frames per clip.
        """
        pending = []
        number = 0
        while True:
            while len(pending) < 12:
                base = RenderSpec(
                    seed=0,
                    role=self._role,
                    split="hard" if number % 2 else "easy",
                    num_frames=num_frames,
                    height=self._size[0],
                    width=self._size[1],
                )
                seeds = range(self._next_seed, self._next_seed + batch_size)
                self._next_seed += batch_size
                pending.append(self._pool.submit(_sample_scenes, base, seeds, self._num_textures))
                number += 1
            specs, scenes = pending.pop(0).result()
            yield self._rendered(specs, scenes, times)

    def _rendered(self, specs: list[RenderSpec], scenes: list[Scene], times: str) -> ClipBatch:
        motion = Motion.stack(scenes, device=self._device)
        numbers = np.stack([scene.texture_index + self._num_textures * scene.texture_repetitive for scene in scenes])
        texels = self._bank[torch.from_numpy(numbers).to(self._device)]
        moments = np.stack([frame_times(spec, times) for spec in specs]).astype(np.float32)
        samples = 1 if specs[0].split == "easy" else 4
        with torch.no_grad():
            time = torch.from_numpy(moments).to(self._device)
            frames = render_batch(motion, texels, time, self._size, shutter_samples=samples, draw=self._draw)
        rows = [[self._textures[index] for index in row] for row in numbers.tolist()]
        prompts = tuple(describe(spec, scene, row) for spec, scene, row in zip(specs, scenes, rows, strict=True))
        return ClipBatch(frames, prompts, tuple(specs))


def frame_times(spec: RenderSpec, times: str) -> np.ndarray:
    """Times at which a clip's frames are taken.

    `whole`: 0, 1, 2, ... as an autoencoder with temporal compression sees them. `apart`: frame 0 followed by frames a
    constant stride apart that start anywhere, as in the chunks of the tracker, where every frame is encoded alone.
    """
    frames = np.arange(spec.num_frames, dtype=np.float64)
    if times == "whole":
        return frames
    rng = np.random.default_rng([179_424_673, spec.seed])
    stride = rng.integers(1, 7)
    later = rng.integers(1, 25) if rng.random() < 0.5 else stride
    return np.where(frames == 0, 0, later + (frames - 1) * stride)


def _make_texture(job: tuple[Role, int, bool]) -> Texture:
    role, index, repetitive = job
    return make_texture(role, index, repetitive=repetitive)


def _sample_scenes(base: RenderSpec, seeds: range, num_textures: int) -> tuple[list[RenderSpec], list[Scene]]:
    torch.set_num_threads(1)
    specs = [replace(base, seed=seed, kind="scene" if seed % 5 < 2 else "object") for seed in seeds]
    return specs, [sample_scene(spec, num_textures=num_textures) for spec in specs]
