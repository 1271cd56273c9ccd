"""How well each layer matches points: the curve that shows when correspondence emerges."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from difftrack.backbones import AttentionCall, intercept
from difftrack.correspondence import match_points
from difftrack.geometry import px_to_token, token_to_px
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

__all__ = ["ProbeClip", "layer_hits", "probe_clips"]

Mapper = Callable[[Callable[[RenderSpec], Any], Sequence[RenderSpec]], Iterator[Any]]
"""`map`, or that of a pool of processes."""


@dataclass(frozen=True, slots=True)
class ProbeClip:
    """A clip with exact tracks of points of frame 0."""

    spec: RenderSpec
    frames: UInt8[Tensor, "frame row col rgb"]
    prompt: str
    points_xy_px: Float[np.ndarray, "frame point xy"]
    visible: Bool[np.ndarray, "frame point"]


def probe_clips(
    specs: Sequence[RenderSpec], *, device: torch.device, grid: int = 12, mapper: Mapper = map
) -> list[ProbeClip]:
    """Render clips on the training device and follow a grid of points, on objects alone in object clips.

    Args:
        specs: What to render.
        device: Renders.
        grid: Points along each axis.
        mapper: Spreads textures and tracks over processes.
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
    """What needs no accelerator."""
    scene = sample_scene(spec)
    x, y = np.meshgrid((np.arange(grid) + 0.5) * spec.width / grid, (np.arange(grid) + 0.5) * spec.height / grid)
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    if spec.kind == "object" and (chosen := on_object(spec, points)).any():
        points = points[chosen]
    tracks, visible = exact_tracks(spec, np.insert(points, 0, 0, axis=1).astype(np.float32))
    return scene, layer_textures(spec, scene), tracks, visible


@torch.no_grad()
def layer_hits(
    transformer: CogVideoXTransformer3DModel,
    latents: Float[Tensor, "clip latent_frame channel row col"],
    clips: Sequence[ProbeClip],
    text: Float[Tensor, "clip text_token width"],
    rotary: tuple[Tensor, Tensor],
    *,
    timestep: int,
    frames: Sequence[int],
    stride_px: int,
    threshold_px: float = 8.0,
) -> tuple[Int[np.ndarray, "clip layer"], Int[np.ndarray, " clip"]]:
    """Visible points whose best match lies within `threshold_px`, per clip and layer, and visible points per clip.

    Args:
        transformer: Run once per clip.
        latents: Scaled latents, noised to `timestep`.
        clips: The clips' tracks.
        text: Prompt embeddings.
        rotary: Rotary tables for these latents.
        timestep: Scheduler's timestep.
        frames: Video frame of each latent frame; the first is the one whose points are followed.
        stride_px: Pixels per token.
        threshold_px: Strict limit on the distance.
    """
    hits, totals = [], []
    for number, clip in enumerate(clips):
        tokens = torch.from_numpy(px_to_token(clip.points_xy_px[0], stride_px=stride_px)).to(latents.device)
        found = _matches(transformer, latents[number : number + 1], text[number : number + 1], rotary, timestep, tokens)
        truth, seen = clip.points_xy_px[list(frames)][1:], clip.visible[list(frames)][1:]
        distance = np.linalg.norm(token_to_px(found[:, 1:], stride_px=stride_px) - truth, axis=-1)
        hits.append(((distance < threshold_px) & seen).sum(axis=(1, 2)))
        totals.append(seen.sum())
    return np.stack(hits), np.stack(totals)


def _matches(
    transformer: CogVideoXTransformer3DModel,
    latents: Tensor,
    text: Tensor,
    rotary: tuple[Tensor, Tensor],
    timestep: int,
    points_xy_token: Tensor,
) -> Float[np.ndarray, "layer latent_frame point xy"]:
    _, num_frames, _, height, width = latents.shape
    patch = int(transformer.config.patch_size)
    found: dict[int, np.ndarray] = {}

    def attend(call: AttentionCall) -> Tensor:
        shape = (call.query.shape[1], num_frames, height // patch, width // patch, call.query.shape[3])
        query, key = (part[0, :, text.shape[1] :].reshape(shape).float() for part in (call.query, call.key))
        found[call.layer] = match_points(query, key, points_xy_token).points_xy_token.cpu().numpy()
        return call.run()

    modules = {layer: block.attn1 for layer, block in enumerate(transformer.transformer_blocks)}
    with intercept(modules, attend):
        time = torch.tensor([timestep], device=latents.device)
        transformer(latents, text, time, image_rotary_emb=rotary, return_dict=False)
    return np.stack([found[layer] for layer in modules])
