"""How well each layer matches points: the curve that shows when correspondence emerges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones import AttentionCall, intercept
from difftrack.correspondence import match_points
from difftrack.geometry import px_to_token
from difftrack.rendering import RenderSpec, exact_tracks, render_clip

__all__ = ["ProbeClip", "layer_accuracy", "probe_clips"]


@dataclass(frozen=True, slots=True)
class ProbeClip:
    """A clip with exact tracks of the points that are visible in frame 0."""

    frames: Tensor
    """uint8 [frame, row, col, rgb]."""
    prompt: str
    points_xy_px: Float[np.ndarray, "frame point xy"]
    visible: Bool[np.ndarray, "frame point"]


def probe_clips(specs: Sequence[RenderSpec], *, grid: int = 12) -> list[ProbeClip]:
    """Render clips and follow a grid of points, on objects alone in object clips."""
    return [_probe_clip(spec, grid) for spec in specs]


def _probe_clip(spec: RenderSpec, grid: int) -> ProbeClip:
    rendered = render_clip(spec)
    x = (np.arange(grid) + 0.5) * spec.width / grid
    y = (np.arange(grid) + 0.5) * spec.height / grid
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    if spec.kind == "object":
        on_object = rendered.object_mask[points[:, 1].astype(int), points[:, 0].astype(int)]
        points = points[on_object] if on_object.any() else points
    queries = np.concatenate([np.zeros((len(points), 1)), points], axis=1).astype(np.float32)
    tracks, visible = exact_tracks(spec, queries)
    return ProbeClip(torch.from_numpy(rendered.frames), rendered.prompt, tracks, visible)


@torch.no_grad()
def layer_accuracy(
    transformer: CogVideoXTransformer3DModel,
    latents: Float[Tensor, "clip latent_frame channel row col"],
    clips: Sequence[ProbeClip],
    text: Float[Tensor, "clip text_token channel"],
    rotary: tuple[Tensor, Tensor],
    *,
    timestep: int,
    frames: Sequence[int],
    threshold_px: float = 8.0,
) -> list[float]:
    """Share of visible points whose best match lies within `threshold_px`, per layer.

    Args:
        transformer: Run once per clip.
        latents: Scaled latents, noised to `timestep`.
        clips: The clips' tracks.
        text: Prompt embeddings.
        rotary: Rotary tables for these latents.
        timestep: Scheduler's timestep.
        frames: Video frame of each latent frame; the first is the one whose points are followed.
        threshold_px: Strict limit on the distance.
    """
    hits = np.zeros(len(transformer.transformer_blocks))
    total = 0
    stride_px = 2 * 4
    for number, clip in enumerate(clips):
        tokens = torch.from_numpy(px_to_token(clip.points_xy_px[0], stride_px=stride_px)).to(latents.device)
        found = _matches(transformer, latents[number : number + 1], text[number : number + 1], rotary, timestep, tokens)
        truth, seen = clip.points_xy_px[list(frames)][1:], clip.visible[list(frames)][1:]
        distance = np.linalg.norm((found[:, 1:] + 0.5) * stride_px - truth, axis=-1)
        hits += ((distance < threshold_px) & seen).sum(axis=(1, 2))
        total += int(seen.sum())
    return [float(share) for share in hits / max(total, 1)]


def _matches(
    transformer: CogVideoXTransformer3DModel,
    latents: Tensor,
    text: Tensor,
    rotary: tuple[Tensor, Tensor],
    timestep: int,
    points_xy_token: Tensor,
) -> Float[np.ndarray, "layer latent_frame point xy"]:
    _, num_frames, _, height, width = latents.shape
    found: dict[int, np.ndarray] = {}

    def attend(call: AttentionCall) -> Tensor:
        shape = (num_frames, height // 2, width // 2)
        query, key = (part[0, :, text.shape[1] :].unflatten(1, shape).float() for part in (call.query, call.key))
        found[call.layer] = match_points(query, key, points_xy_token).points_xy_token.cpu().numpy()
        return call.run()

    modules = {layer: block.attn1 for layer, block in enumerate(transformer.transformer_blocks)}
    with intercept(modules, attend):
        time = torch.tensor([timestep], device=latents.device)
        transformer(latents, text, time, image_rotary_emb=rotary, return_dict=False)
    return np.stack([found[layer] for layer in modules])
