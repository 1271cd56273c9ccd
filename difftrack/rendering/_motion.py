"""Map points between a scene's layers and the image at any time; batched over scenes, on any device."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.rendering._scene import Oscillation, Scene

_FIXED_POINT_STEPS = 24


@dataclass(frozen=True, slots=True)
class Motion:
    """A batch of scenes as tensors: every array field of `Scene`, with a leading scene axis."""

    tensors: dict[str, Tensor]

    @classmethod
    def stack(cls, scenes: list[Scene], *, device: torch.device, dtype: torch.dtype = torch.float32) -> "Motion":
        """Stack scenes; the fields of an `Oscillation` are named `name.field`."""
        tensors: dict[str, Tensor] = {}
        for entry in fields(Scene):
            values = [getattr(scene, entry.name) for scene in scenes]
            if isinstance(values[0], Oscillation):
                for part in fields(Oscillation):
                    stacked = np.stack([getattr(value, part.name) for value in values])
                    tensors[f"{entry.name}.{part.name}"] = torch.from_numpy(stacked).to(device, dtype)
            elif isinstance(values[0], np.ndarray | float):
                tensors[entry.name] = torch.from_numpy(np.stack(values)).to(device, dtype)
        return cls(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def path(self, name: str, time: Float[Tensor, "scene time"]) -> Float[Tensor, "scene time layer"]:
        """Value of the oscillation `name` at each time, zero at time 0."""
        amplitude, rate, phase = (self[f"{name}.{part}"][:, None] for part in ("amplitude", "rate", "phase"))
        return amplitude * (torch.sin(rate * time[:, :, None] + phase) - torch.sin(phase))


def layer_homographies(motion: Motion, time: Float[Tensor, "scene time"]) -> Float[Tensor, "scene time layer 3 3"]:
    """Compute the maps from each layer's own plane to the image, both in scene units from their centres.

    Each map is a similarity with aspect and perspective, then the layer's position, then the camera.
    """
    angle = motion["angle"][:, None] + motion.path("spin", time)
    zoom, stretch = motion.path("zoom", time), motion.path("stretch", time)
    cos, sin = torch.cos(angle), torch.sin(angle)
    scale_x, scale_y = torch.exp(zoom + stretch), torch.exp(zoom - stretch)
    heading = motion["heading"][:, None]
    across = torch.stack([-heading[..., 1], heading[..., 0]], dim=-1)
    travel, sway = motion.path("travel", time)[..., None], motion.path("sway", time)[..., None]
    center = motion["center"][:, None] + travel * heading + sway * across
    tilt = motion["tilt"][:, None] + motion.path("tilt_swing", time)[..., None] * heading
    placed = torch.zeros((*angle.shape, 3, 3), dtype=angle.dtype, device=angle.device)
    placed[..., 0, 0], placed[..., 0, 1] = cos * scale_x, -sin * scale_y
    placed[..., 1, 0], placed[..., 1, 1] = sin * scale_x, cos * scale_y
    placed[..., 2, :2] = tilt
    placed[..., 2, 2] = 1
    # T @ placed: the translation acts after the perspective division.
    placed[..., :2, :] = placed[..., :2, :] + center[..., :, None] * placed[..., 2:, :]
    return _camera(motion, time) @ placed


def _camera(motion: Motion, time: Float[Tensor, "scene time"]) -> Float[Tensor, "scene time layer 3 3"]:
    moved, roll, zoom = motion.path("camera", time).unbind(-1)
    shift = moved[..., None] * motion["camera_heading"][:, None]
    camera = torch.zeros((*time.shape, motion["parallax"].shape[1], 3, 3), dtype=time.dtype, device=time.device)
    scale = torch.exp(zoom)
    camera[..., 0, 0] = camera[..., 1, 1] = (torch.cos(roll) * scale)[..., None]
    camera[..., 1, 0] = (torch.sin(roll) * scale)[..., None]
    camera[..., 0, 1] = -camera[..., 1, 0]
    camera[..., :2, 2] = shift[:, :, None] * motion["parallax"][:, None, :, None]
    camera[..., 2, 2] = 1
    return camera


def apply_homography(
    homography: Float[Tensor, "*#batch 3 3"], points: Float[Tensor, "*#batch point 2"]
) -> Float[Tensor, "*batch point 2"]:
    """Map points (x, y) through homographies."""
    x, y = points[..., 0], points[..., 1]
    rows = [
        homography[..., i, 0, None] * x + homography[..., i, 1, None] * y + homography[..., i, 2, None]
        for i in range(3)
    ]
    return torch.stack([rows[0] / rows[2], rows[1] / rows[2]], dim=-1)


def unbend(
    motion: Motion, points: Float[Tensor, "scene time layer point 2"], time: Float[Tensor, "scene time"]
) -> Float[Tensor, "scene time layer point 2"]:
    """Map points u of the bent plane to the texture's plane: `p = u + sum_i a_i sin(k_i . u + rate_i t + phase_i)`."""
    phase = motion["wave_rate"][:, None] * time[:, :, None, None] + motion["wave_phase"][:, None]
    bent = points
    for wave in range(motion["wave_vector"].shape[2]):
        vector = motion["wave_vector"][:, None, :, wave]
        argument = (points * vector[..., None, :]).sum(-1) + phase[..., wave, None]
        bent = bent + motion["wave_amplitude"][:, None, :, None, wave] * torch.sin(argument)[..., None]
    return bent


def bend(
    motion: Motion, points: Float[Tensor, "scene time layer point 2"], time: Float[Tensor, "scene time"]
) -> Float[Tensor, "scene time layer point 2"]:
    """Invert `unbend` by fixed-point iteration, which converges because the deformation is a contraction."""
    solution = points
    for _ in range(_FIXED_POINT_STEPS):
        solution = solution + (points - unbend(motion, solution, time))
    return solution


def outline_distance(
    motion: Motion, points: Float[Tensor, "scene time layer point 2"]
) -> Float[Tensor, "scene time layer point"]:
    """Distance from the layer's outline along the ray from its centre, in scene units; negative inside.

    The background's radius lies far outside every image and the radius of an unused layer is negative, so neither needs
    a special case here.
    """
    table = motion["radius"]
    samples = table.shape[-1]
    position = torch.atan2(points[..., 1], points[..., 0]) / (2 * torch.pi) * samples % samples
    low = position.floor().long() % samples
    index = torch.stack([low, (low + 1) % samples])
    expanded = table[None, :, None].expand(2, -1, points.shape[1], -1, -1)
    near, far = torch.gather(expanded, -1, index).unbind(0)
    outline = torch.lerp(near, far, position - position.floor())
    distance: Tensor = points.norm(dim=-1) - outline
    return distance
