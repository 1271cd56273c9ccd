"""Render the frames of scenes and compute their exact tracks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from difftrack.rendering._motion import Motion, apply_homography, bend, layer_homographies, outline_distance, unbend
from difftrack.rendering._prompt import describe
from difftrack.rendering._scene import REFERENCE_HEIGHT, Scene, sample_scene
from difftrack.rendering._spec import RenderSpec
from difftrack.rendering._textures import TEXTURE_SIZE, Texture, make_texture

_SUPERSAMPLING = 2
SHUTTER_SAMPLES = 4
SHADOW_SOFTNESS = 1.5
"""Width over which a shadow's edge fades, in scene units."""

LayerDrawer = Callable[..., tuple[Tensor, Tensor]]
"""`draw_layer` or its compiled form."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered clip."""

    frames: UInt8[np.ndarray, "frame row col rgb"]
    prompt: str
    object_mask: Bool[np.ndarray, "row col"]
    """True where frame 0 shows an object, False where it shows the background."""
    textures: tuple[str, ...]
    """Source of each layer's texture, back to front."""


def render_clip(spec: RenderSpec) -> Rendered:
    """Render a clip on the CPU; the same spec gives the same bytes."""
    scene = sample_scene(spec)
    textures = layer_textures(spec, scene)
    motion = Motion.stack([scene], device=torch.device("cpu"))
    texels = torch.stack([torch.from_numpy(texture.pixels) for texture in textures])[None, : scene.num_layers]
    times = torch.arange(spec.num_frames, dtype=torch.float32)
    samples = SHUTTER_SAMPLES if scene.shutter > 0 else 1
    size = (spec.height, spec.width)
    with torch.no_grad():
        # One frame at a time bounds the memory; batches of frames are not faster.
        frames = torch.cat(
            [render_batch(motion, texels, t[None, None], size, shutter_samples=samples)[0] for t in times]
        )
    x, y = np.meshgrid(np.arange(spec.width) + 0.5, np.arange(spec.height) + 0.5)
    centers = np.stack([x, y], axis=-1).reshape(-1, 2)
    return Rendered(
        frames=frames.numpy(),
        prompt=describe(spec, scene, textures),
        object_mask=on_object(spec, centers).reshape(spec.height, spec.width),
        textures=tuple(texture.source for texture in textures[: scene.num_layers]),
    )


def on_object(spec: RenderSpec, points_xy_px: Float[np.ndarray, "point xy"]) -> Bool[np.ndarray, " point"]:
    """Whether points of frame 0 lie on an object rather than the background; computed without rendering."""
    scene = sample_scene(spec)
    motion = Motion.stack([scene], device=torch.device("cpu"))
    points = _to_units(torch.from_numpy(points_xy_px).float(), spec)[None]
    front: np.ndarray = layer_at(motion, points, torch.zeros(1, 1), num_layers=scene.num_layers)[0].numpy()
    return front > 0


def exact_masks(spec: RenderSpec) -> UInt8[np.ndarray, "frame row col"]:
    """Compute exactly which layer each pixel of each frame shows, without rendering.

    Args:
        spec: The clip.

    Returns:
        0 for the background, k for object k, back to front: the k-th of `Scene.shapes`, and the k-th layer of
        `layer_textures` after the background. A pixel belongs to the frontmost layer whose outline contains its centre.
        An outline lies where the rendered opacity is one half. Motion blur is ignored.
    """
    scene = sample_scene(spec)
    motion = Motion.stack([scene], device=torch.device("cpu"))
    x, y = np.meshgrid(np.arange(spec.width) + 0.5, np.arange(spec.height) + 0.5)
    centers = np.stack([x, y], axis=-1).reshape(-1, 2)
    points = _to_units(torch.from_numpy(centers).float(), spec)[None]
    times = torch.arange(spec.num_frames, dtype=torch.float32)
    layers = torch.cat([layer_at(motion, points, time[None, None], num_layers=scene.num_layers) for time in times])
    masks: np.ndarray = layers.numpy().astype(np.uint8).reshape(spec.num_frames, spec.height, spec.width)
    return masks


def exact_tracks(
    spec: RenderSpec, query_points: Float[np.ndarray, "point txy"]
) -> tuple[Float[np.ndarray, "frame point xy"], Bool[np.ndarray, "frame point"]]:
    """Compute the exact positions and visibility of surface points in all frames of a rendered clip.

    A query point belongs to the frontmost layer at its position. It is visible where it lies inside the image and no
    layer in front covers it. An outline lies where the rendered opacity is one half.

    Args:
        spec: The clip.
        query_points: (frame, x, y); x and y in pixels of the clip, frame an integer in 0 ... num_frames - 1.

    Returns:
        Positions (x, y) in pixels, also for points that are not visible, and visibility.

    Raises:
        ValueError: a query point lies outside the clip.
    """
    frame, x, y = query_points.T.astype(np.float64)
    inside = (frame >= 0) & (frame < spec.num_frames) & (x >= 0) & (x <= spec.width) & (y >= 0) & (y <= spec.height)
    if not inside.all():
        raise ValueError(f"query point {query_points[~inside][0].tolist()} (frame, x, y) lies outside the clip {spec}")
    scene = sample_scene(spec)
    motion = Motion.stack([scene], device=torch.device("cpu"), dtype=torch.float64)
    points = _to_units(torch.from_numpy(np.stack([x, y], axis=1)), spec)
    time = torch.from_numpy(frame)
    own = torch.empty(len(points), dtype=torch.long)
    canonical = torch.empty_like(points)
    for t in np.unique(frame):
        at = time == t
        layers, planes = _planes(motion, points[at][None], time[at][:1, None], num_layers=scene.num_layers)
        own[at] = layers[0]
        canonical[at] = planes[0, 0, layers[0], torch.arange(int(at.sum()))]
    times = torch.arange(spec.num_frames, dtype=torch.float64)[None]
    per_layer = canonical[None, None, None].expand(1, spec.num_frames, len(scene.texture_index), -1, -1)
    placed = apply_homography(layer_homographies(motion, times), bend(motion, per_layer, times))
    track = placed[0, :, own, torch.arange(len(points))]
    front = [
        layer_at(motion, place[None], t[None, None], num_layers=scene.num_layers)[0]
        for place, t in zip(track, times[0], strict=True)
    ]
    pixels = _to_pixels(track, spec).numpy()
    inside = ((pixels >= 0) & (pixels <= (spec.width, spec.height))).all(-1)
    return pixels.astype(np.float32), (torch.stack(front) == own).numpy() & inside


def render_batch(
    motion: Motion,
    texels: UInt8[Tensor, "scene layer texel_row texel_col rgb"],
    time: Float[Tensor, "scene time"],
    size: tuple[int, int],
    *,
    shutter_samples: int,
    draw: LayerDrawer | None = None,
) -> UInt8[Tensor, "scene time row col rgb"]:
    """Render frames of a batch of scenes at arbitrary times, on the device of the tensors.

    Args:
        motion: The scenes.
        texels: One texture per layer; layers without a texture are not drawn.
        time: Times in frames; need not be whole numbers.
        size: (height, width) in pixels.
        shutter_samples: Number of moments averaged while the shutter is open; 1 = no motion blur.
        draw: A compiled `draw_layer`, for speed; None uses `draw_layer` itself.
    """
    shutter = motion["shutter"][:, None]
    offsets = [(i + 0.5) / shutter_samples - 0.5 for i in range(shutter_samples)]
    exposures = [
        _render_instant(motion, texels, time + shutter * offset, size, draw or draw_layer) for offset in offsets
    ]
    image = _light(motion, torch.stack(exposures).mean(0), time)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)


def layer_at(
    motion: Motion, points: Float[Tensor, "scene point 2"], time: Float[Tensor, "scene 1"], *, num_layers: int
) -> Int[Tensor, "scene point"]:
    """Index of the frontmost layer at points (in scene units) at one time."""
    return _planes(motion, points, time, num_layers=num_layers)[0]


def _planes(
    motion: Motion, points: Float[Tensor, "scene point 2"], time: Float[Tensor, "scene 1"], *, num_layers: int
) -> tuple[Int[Tensor, "scene point"], Float[Tensor, "scene 1 layer point 2"]]:
    inverse = torch.linalg.inv(layer_homographies(motion, time))
    spread = points[:, None, None].expand(-1, 1, inverse.shape[2], -1, -1)
    planes = unbend(motion, apply_homography(inverse, spread), time)
    inside = outline_distance(motion, planes)[:, 0, :num_layers] < 0
    order = torch.arange(num_layers, device=points.device)[None, :, None]
    return torch.where(inside, order, -1).amax(dim=1), planes


def _render_instant(
    motion: Motion,
    texels: UInt8[Tensor, "scene layer texel_row texel_col rgb"],
    time: Float[Tensor, "scene time"],
    size: tuple[int, int],
    draw: LayerDrawer,
) -> Float[Tensor, "scene time rgb row col"]:
    rows, cols = size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING
    unit = REFERENCE_HEIGHT / rows
    y = (torch.arange(rows, device=time.device) + 0.5 - rows / 2) * unit
    x = (torch.arange(cols, device=time.device) + 0.5 - cols / 2) * unit
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    inverse = torch.linalg.inv(layer_homographies(motion, time))
    image, _ = draw(_layer(motion, 0), texels[:, 0], inverse[:, :, :1], time, grid, unit)
    for layer in range(1, texels.shape[1]):
        one = _layer(motion, layer)
        color, cover = draw(one, texels[:, layer], inverse[:, :, layer : layer + 1], time, grid, unit)
        image = torch.lerp(image * (1 - cover[:, :, 1:]), color, cover[:, :, :1])
    pooled = functional.avg_pool2d(image.reshape(-1, 3, rows, cols), _SUPERSAMPLING)
    return pooled.reshape(*time.shape, *pooled.shape[1:])


def draw_layer(
    one: Motion,
    texels: UInt8[Tensor, "scene texel_row texel_col rgb"],
    inverse: Float[Tensor, "scene time 1 3 3"],
    time: Float[Tensor, "scene time"],
    grid: Float[Tensor, "point 2"],
    unit: float,
) -> tuple[Float[Tensor, "scene time rgb point"], Float[Tensor, "scene time 2 point"]]:
    """Compute one layer's colour at every grid point, its opacity, and the shade that it casts on the layers behind.

    This is a separate function so that it can be compiled: the renderer spends nearly all of its time here.

    Args:
        one: The layer's part of a `Motion`.
        texels: The layer's texture.
        inverse: Maps from the image to the layer's plane.
        time: Times in frames.
        grid: Points of the image in scene units.
        unit: Distance between neighbouring grid points; an outline fades over this distance.
    """
    points = grid.expand(*time.shape, 1, -1, -1)
    planes = unbend(one, apply_homography(inverse, points), time)
    color = _sample(texels, planes[:, :, 0], one["texels_per_unit"])
    opacity = (0.5 - outline_distance(one, planes)[:, :, 0] / unit).clamp(0, 1)
    strength, offset = one["shadow"][:, 0], one["shadow"][:, 1:]
    cast = unbend(one, apply_homography(inverse, points - offset[:, None, None, None]), time)
    shade = strength[:, None, None] * torch.sigmoid(-outline_distance(one, cast)[:, :, 0] / SHADOW_SOFTNESS)
    return color, torch.stack([opacity, shade], dim=2)


def _layer(motion: Motion, layer: int) -> Motion:
    names = ("wave_vector", "wave_amplitude", "wave_rate", "wave_phase", "radius", "texels_per_unit")
    return Motion({**{name: motion[name][:, layer : layer + 1] for name in names}, "shadow": motion["shadow"]})


def _sample(
    texels: UInt8[Tensor, "scene texel_row texel_col rgb"],
    planes: Float[Tensor, "scene time point 2"],
    texels_per_unit: Float[Tensor, "scene 1"],
) -> Float[Tensor, "scene time rgb point"]:
    image = texels.permute(0, 3, 1, 2).to(planes.dtype) / 255
    grid = planes * (texels_per_unit[:, :, None, None] * (2 / TEXTURE_SIZE))
    sampled = functional.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.transpose(1, 2)


def _light(
    motion: Motion, image: Float[Tensor, "scene time rgb row col"], time: Float[Tensor, "scene time"]
) -> Float[Tensor, "scene time rgb row col"]:
    amplitude, rate, phase, gradient = motion["exposure"][:, None].unbind(-1)
    gain = torch.exp(amplitude * torch.sin(rate * time + phase))
    across = torch.linspace(-0.5, 0.5, image.shape[-1], device=image.device)
    return image * gain[..., None, None, None] * torch.exp(gradient[..., None] * across)[:, :, None, None, :]


def _to_units(points_px: Float[Tensor, "point 2"], spec: RenderSpec) -> Float[Tensor, "point 2"]:
    center = torch.tensor([spec.width / 2, spec.height / 2], dtype=points_px.dtype)
    return (points_px - center) * (REFERENCE_HEIGHT / spec.height)


def _to_pixels(points: Float[Tensor, "*batch 2"], spec: RenderSpec) -> Float[Tensor, "*batch 2"]:
    center = torch.tensor([spec.width / 2, spec.height / 2], dtype=points.dtype)
    return points * (spec.height / REFERENCE_HEIGHT) + center


def layer_textures(spec: RenderSpec, scene: Scene) -> tuple[Texture, ...]:
    """Return the texture of each layer of a scene, back to front, including unused layers."""
    numbers = zip(scene.texture_index.tolist(), scene.texture_repetitive.tolist(), strict=True)
    return tuple(_texture(spec.role, index, bool(repetitive)) for index, repetitive in numbers)


@lru_cache(maxsize=16)
def _texture(role: str, index: int, repetitive: bool) -> Texture:
    return make_texture(role, index, repetitive=repetitive)  # type: ignore[arg-type]
