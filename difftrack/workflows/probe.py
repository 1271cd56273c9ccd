"""Repeatedly measures how well the layers and heads of a backbone match points, on a few rendered clips.

Clips, latents, noise, prompt embeddings and truth do not change during training and are computed once. A measurement is
one forward per clip and noise level; its descriptors are matched during the forward and not kept.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from difftrack.annotation import query_grid
from difftrack.backbones import Backbone, ImageConditioning, LayerDescriptors, PromptEmbedding
from difftrack.correspondence import ClipMatcher, MatchSection, UnitMatches, label_matches
from difftrack.datasets import Clip, TrackedVideo, Tracks
from difftrack.geometry import TokenGrid
from difftrack.metrics import ScoringParams, score_clip
from difftrack.rendering import RenderSpec, exact_tracks, on_object, render_clip

__all__ = ["EmergenceProbe", "ProbeParams", "rendered_clips"]

_FIRST_SEED = 730_000
_FPS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeParams:
    """Settings of a probe.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: tuple[int, ...] = (35,)
    """Noise levels, as steps of the schedule: 0 is the noisiest."""
    num_inference_steps: int = 50
    """Length of the schedule."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers to measure; the forward ends after the last of them."""
    per_head: bool = True
    """Also measure every head alone."""
    frames_alone: bool = False
    """Encode each frame by itself, as tracking does, instead of the whole clip."""
    threshold_token: float = 1.0
    """A match is correct if its distance to the truth is below this, in tokens."""
    noise_seed: int = 0

    def __post_init__(self) -> None:
        if not self.steps or any(not 0 <= step < self.num_inference_steps for step in self.steps):
            raise ValueError(
                f"steps is {list(self.steps)}; expected at least one of 0 ... {self.num_inference_steps - 1}"
            )
        if not self.threshold_token > 0:
            raise ValueError(f"threshold_token is {self.threshold_token}; it must be positive")


def rendered_clips(
    count: int, *, num_frames: int, height: int, width: int, grid: int = 8, first_seed: int = _FIRST_SEED
) -> list[TrackedVideo]:
    """Render clips with exact tracks, alternating easy and hard, objects and camera moves; the same in every call.

    Args:
        count: Number of clips.
        num_frames: Frames of each clip.
        height: Height in pixels.
        width: Width in pixels.
        grid: Points along each side of frame 0; only points on objects in object clips.
        first_seed: Seed of the first clip; each further clip adds 1. All have the role `tune`.
    """
    clips = []
    for number in range(count):
        spec = RenderSpec(
            seed=first_seed + number,
            role="tune",
            kind="scene" if number % 2 else "object",
            split="hard" if number // 2 % 2 else "easy",
            num_frames=num_frames,
            height=height,
            width=width,
        )
        queries = query_grid(height, width, grid)
        if spec.kind == "object" and (on := on_object(spec, queries[:, 1:].astype(np.float64))).any():
            queries = queries[on]
        points, visible = exact_tracks(spec, queries)
        shown = render_clip(spec)
        clip = Clip(f"{spec.split}-{spec.kind}-{spec.seed}", shown.frames, _FPS, shown.prompt, "rendered")
        clips.append(TrackedVideo(clip, Tracks(points.astype(np.float32), visible, queries, height, width, "exact")))
    return clips


@dataclass(frozen=True, slots=True)
class _Labels:
    """The axes of a measurement; see `correspondence.label_matches`."""

    steps: tuple[int, ...]
    timesteps: tuple[float, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """One clip, prepared for the transformer."""

    name: str
    latents: Tensor
    noise: Tensor
    prompt: PromptEmbedding
    conditioning: ImageConditioning | None
    tracks: Tracks
    frames: tuple[int, ...]
    """Video frame of each latent frame."""
    grid: TokenGrid


class EmergenceProbe:
    """Measures one backbone on the same clips and the same noise every time.

    Args:
        backbone: Its autoencoder and text encoder are used here, but not by measurements.
        clips: Clips with exact tracks, all of a size and length that the backbone supports.
        params: Settings of the probe.

    Raises:
        BackboneError: the backbone cannot run clips of this size, or a layer does not exist.
    """

    def __init__(self, backbone: Backbone, clips: Sequence[TrackedVideo], params: ProbeParams) -> None:
        self.backbone = backbone
        self.params = params
        self.layers = tuple(range(backbone.num_layers)) if params.layers == "all" else tuple(sorted(params.layers))
        self._prompts = [clip.clip.prompt for clip in clips]
        self._clips = [self._prepare(number, clip) for number, clip in enumerate(clips)]

    @property
    def clips(self) -> tuple[str, ...]:
        """Names of the clips."""
        return tuple(clip.name for clip in self._clips)

    def embed_again(self) -> None:
        """Embed the prompts again, if the text encoder is also trained."""
        self._clips = [
            replace(clip, prompt=_embedded(self.backbone, prompt))
            for clip, prompt in zip(self._clips, self._prompts, strict=True)
        ]

    def measure(self) -> dict[str, xr.Dataset]:
        """Run the current transformer, one forward per clip and noise level.

        Returns:
            For every clip `matching_accuracy`, `confidence`, `attention_score` and the other results of
            `metrics.score_clip` over (step, layer), and with prefix `head_` over (step, layer, head). Latent frames are
            compared with the truth in their video frame; `metrics.combine_clips` averages the clips.
        """
        return {clip.name: self._measure(clip) for clip in self._clips}

    def _prepare(self, number: int, video: TrackedVideo) -> _Prepared:
        backbone, clip, alone = self.backbone, video.clip, self.params.frames_alone
        whole = backbone.token_grid(clip.num_frames, clip.height, clip.width)
        shown = [
            max(0, whole.first_frames - 1) // 2 + k * whole.temporal_stride for k in range(whole.num_latent_frames)
        ]
        frames = clip.frames[shown] if alone else clip.frames
        latents = backbone.encode(frames, frames_alone=alone)
        generator = torch.Generator("cpu").manual_seed(self.params.noise_seed * 1000 + number)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        conditioning = None
        if backbone.needs_image:
            conditioning = backbone.condition(clip.frames[0], len(latents), frames_alone=alone)
        grid = backbone.token_grid(len(frames), clip.height, clip.width, frames_alone=alone)
        prompt = _embedded(backbone, clip.prompt)
        return _Prepared(clip.name, latents, noise, prompt, conditioning, video.tracks, tuple(shown), grid)

    def _measure(self, clip: _Prepared) -> xr.Dataset:
        params, backbone = self.params, self.backbone
        points_xy_px = clip.tracks.query_points[:, 1:]
        section = MatchSection(kinds=("query_key",), per_head=params.per_head, device=str(backbone.device))
        mask = tuple(backbone.text_mask(clip.prompt).tolist())
        matcher = ClipMatcher(section, points_xy_px, clip.grid.stride_px, mask)
        schedule = backbone.schedule(params.num_inference_steps, grid=clip.grid)
        cells: dict[tuple[int, int], UnitMatches] = {}
        for step in params.steps:

            def match(record: LayerDescriptors, step: int = step) -> None:
                cells[step, record.layer] = matcher.match(partial(_read, record))

            backbone.capture_into(
                match,
                schedule.add_noise(clip.latents, clip.noise, step),
                step,
                schedule,
                clip.prompt,
                layers=self.layers,
                kinds=("query", "key"),
                conditioning=clip.conditioning,
            )
        labels = _Labels(
            steps=params.steps,
            timesteps=tuple(float(schedule.timesteps[step]) for step in params.steps),
            layers=self.layers,
            heads=tuple(range(backbone.num_heads)),
            frames=clip.frames,
        )
        matches = label_matches(cells, labels, points=np.arange(len(points_xy_px)), points_xy_px=points_xy_px)
        return score_clip(
            matches,
            clip.tracks.points_xy_px[list(clip.frames)],
            clip.tracks.visible[list(clip.frames)],
            to_frames=lambda xy: xy,
            temporal_stride=1,
            params=ScoringParams(threshold_px=params.threshold_token * clip.grid.stride_px),
        )


def _embedded(backbone: Backbone, prompt: str) -> PromptEmbedding:
    """Embed a prompt of the renderer, without the warning if a backbone with few text tokens cuts it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*text tokens; cut from the prompt", category=UserWarning)
        return backbone.embed(prompt)


def _read(record: LayerDescriptors, kind: str) -> Tensor:
    tensor: Tensor = getattr(record, kind)
    return tensor.float() if tensor.device.type == "cpu" else tensor
