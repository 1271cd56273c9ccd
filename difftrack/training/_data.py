"""Training clips: worker processes sample the scenes, the training device renders them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from difftrack.rendering import (
    SHUTTER_SAMPLES,
    Motion,
    RenderSpec,
    Role,
    Scene,
    Texture,
    centred,
    close_up,
    describe,
    draw_layer,
    make_texture,
    render_batch,
    sample_scene,
    shape_card,
)

__all__ = ["ClipBatch", "ClipShape", "ClipStream", "frame_times", "worker_pool"]

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

_PREFETCH = 4
_CENTRED_DRAWS = 32_452_843
_CLOSE_UP_DRAWS = 49_979_687
_REPETITIVE_SHARE = 5
"""Number of other textures per repetitive texture in the bank."""


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Size and frame times shared by all clips of one batch."""

    num_frames: int
    height: int
    width: int
    times: Literal["whole", "apart"] = "whole"
    """See `frame_times`."""


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Rendered clips on the training device, with their prompts."""

    frames: UInt8[Tensor, "clip frame row col rgb"]
    prompts: tuple[str, ...]


def worker_pool(num_processes: int | None = None) -> ProcessPoolExecutor:
    """Start a pool of processes that sample scenes. Each uses one thread, because more would compete for the cores.

    Args:
        num_processes: None uses one process fewer than there are cores.
    """
    context: BaseContext = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["difftrack.rendering"])  # has no effect where processes are spawned, as on Windows
    count = num_processes or max(1, (os.cpu_count() or 2) - 1)
    return ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))


class ClipStream:
    """Endless batches of rendered clips of one role. A batch is easy or hard and mixes object and scene clips.

    Textures come from a bank that is drawn once, so a new scene only costs its motion. The pool starts to draw the bank
    immediately; the first batch waits until the bank is complete.

    Args:
        role: The role whose textures and seeds are used.
        num_textures: Number of textures in the bank; a fifth as many repetitive textures are added.
        device: The device that renders.
        seed: Seed of the first clip; each further clip adds 1.
        pool: Runs the processes that draw textures and scenes.
    """

    def __init__(self, *, role: Role, num_textures: int, device: torch.device, seed: int, pool: Executor) -> None:
        self._role: Role = role
        self._device = device
        self._counts = (num_textures, max(1, num_textures // _REPETITIVE_SHARE))
        self._next_seed = seed
        self._pool = pool
        self._draw = torch.compile(draw_layer, dynamic=True) if device.type == "cuda" else draw_layer
        jobs = [(role, index, bool(kind)) for kind, count in enumerate(self._counts) for index in range(count)]
        chunks = [jobs[i : i + 16] for i in range(0, len(jobs), 16)]
        self._texture_futures = [pool.submit(_make_textures, chunk) for chunk in chunks]

    def map(self, function: Callable[[JobT], ResultT], jobs: Iterable[JobT]) -> Iterator[ResultT]:
        """Run other jobs in the same processes and yield the results in order."""
        return self._pool.map(function, jobs)

    @cached_property
    def _textures(self) -> list[Texture]:
        return [texture for future in self._texture_futures for texture in future.result()]

    @cached_property
    def _bank(self) -> UInt8[Tensor, "texture texel_row texel_col rgb"]:
        return torch.from_numpy(np.stack([texture.pixels for texture in self._textures])).to(self._device)

    def batches(
        self,
        shape: ClipShape,
        batch_size: int,
        *,
        hard_share: float = 0.5,
        centred_share: float = 0.0,
        close_up_share: float = 0.0,
        cards: bool = False,
    ) -> Iterator[ClipBatch]:
        """Yield batches endlessly; a few are sampled in advance.

        Args:
            shape: Size and frame times of all clips.
            batch_size: Number of clips in each batch.
            hard_share: Share of batches that are hard; they are evenly spaced.
            centred_share: Share of object clips whose objects move around the middle of the picture (`centred`).
            close_up_share: Share of object clips that show one large, upright object around the middle (`close_up`).
            cards: True makes every clip a centred `shape_card` and ignores the two shares above.
        """
        pending: deque[Future[tuple[list[RenderSpec], list[Scene]]]] = deque()
        number = 0
        while True:
            while len(pending) < _PREFETCH:
                base = RenderSpec(
                    seed=0,
                    role=self._role,
                    split="hard" if int((number + 1) * hard_share) > int(number * hard_share) else "easy",
                    num_frames=shape.num_frames,
                    height=shape.height,
                    width=shape.width,
                )
                seeds = range(self._next_seed, self._next_seed + batch_size)
                self._next_seed += batch_size
                pending.append(
                    self._pool.submit(
                        _sample_scenes, base, seeds, self._counts[0], centred_share, close_up_share, cards=cards
                    )
                )
                number += 1
            specs, scenes = pending.popleft().result()
            yield self._rendered(shape, specs, scenes)

    def _rendered(self, shape: ClipShape, specs: list[RenderSpec], scenes: list[Scene]) -> ClipBatch:
        plain, repetitive = self._counts
        numbers = np.stack(
            [np.where(s.texture_repetitive, plain + s.texture_index % repetitive, s.texture_index) for s in scenes]
        )
        moments = np.stack([frame_times(spec, shape.times) for spec in specs]).astype(np.float32)
        with torch.no_grad():
            frames = render_batch(
                Motion.stack(scenes, device=self._device),
                self._bank[torch.from_numpy(numbers).to(self._device)],
                torch.from_numpy(moments).to(self._device),
                (shape.height, shape.width),
                shutter_samples=1 if specs[0].split == "easy" else SHUTTER_SAMPLES,
                draw=self._draw,
            )
        rows = [[self._textures[index] for index in row] for row in numbers.tolist()]
        prompts = tuple(describe(spec, scene, row) for spec, scene, row in zip(specs, scenes, rows, strict=True))
        return ClipBatch(frames, prompts)


def frame_times(spec: RenderSpec, times: Literal["whole", "apart"]) -> Float[np.ndarray, " frame"]:
    """Times, in frames, at which a clip's frames are taken.

    `whole`: 0, 1, 2, ... as an autoencoder with temporal compression encodes them. `apart`: frame 0, then frames at a
    constant stride from a random start, as in the tracker's chunks, where every frame is encoded separately.
    """
    frames = np.arange(spec.num_frames, dtype=np.float64)
    if times == "whole":
        return frames
    rng = np.random.default_rng([179_424_673, spec.seed])
    stride = rng.integers(1, 8)
    later = rng.integers(1, 32) if rng.random() < 0.5 else stride
    moments: np.ndarray = np.where(frames == 0, 0, later + (frames - 1) * stride)
    return moments


def _make_textures(jobs: list[tuple[Role, int, bool]]) -> list[Texture]:
    return [make_texture(role, index, repetitive=repetitive) for role, index, repetitive in jobs]


def _sample_scenes(
    base: RenderSpec,
    seeds: range,
    num_textures: int,
    centred_share: float,
    close_up_share: float,
    *,
    cards: bool = False,
) -> tuple[list[RenderSpec], list[Scene]]:
    specs = [replace(base, seed=seed, kind="scene" if seed % 5 < 2 and not cards else "object") for seed in seeds]
    scenes = []
    for spec in specs:
        scene = sample_scene(spec, num_textures=num_textures)
        closer = _chosen(spec, _CLOSE_UP_DRAWS, close_up_share)
        if cards:
            scene = shape_card(scene)
        elif closer:
            scene = close_up(scene)
        if cards or closer or _chosen(spec, _CENTRED_DRAWS, centred_share):
            scene = centred(scene, num_frames=spec.num_frames)
        scenes.append(scene)
    return specs, scenes


def _chosen(spec: RenderSpec, draws: int, share: float) -> bool:
    """Whether an object clip belongs to the given share. The clip's seed decides, so the answer is reproducible."""
    return spec.kind == "object" and bool(np.random.default_rng([draws, spec.seed]).random() < share)
