"""Stores the latents of a sampled clip next to the clip."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from difftrack.backbones._conditions import Trajectory
from difftrack.backbones._errors import BackboneError

__all__ = ["read_trajectory", "write_trajectory"]

_LATENTS, _IMAGE, _BACKBONE, _INPUT = "latents", "image", "backbone", "input."


def write_trajectory(path: Path, trajectory: Trajectory, *, fingerprint: str) -> None:
    """Write a trajectory as safetensors; the file appears under its name when it is complete.

    Args:
        path: Path of the file.
        trajectory: Trajectory from sampling.
        fingerprint: Fingerprint of the sampling backbone.
    """
    tensors = {_LATENTS: trajectory.latents.contiguous()}
    if trajectory.image is not None:
        tensors[_IMAGE] = torch.from_numpy(trajectory.image).contiguous()
    tensors |= {f"{_INPUT}{name}": values.contiguous() for name, values in trajectory.inputs.items()}
    part = path.with_name(f".{path.name}.part")
    save_file(tensors, part, metadata={_BACKBONE: fingerprint})
    part.replace(path)


def read_trajectory(path: Path, *, fingerprint: str) -> Trajectory:
    """Read a trajectory written by `write_trajectory`.

    Args:
        path: Path of the file.
        fingerprint: Fingerprint of the backbone that will use it.

    Raises:
        BackboneError: the file is missing or damaged, or another backbone sampled it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            sampled_by = (file.metadata() or {}).get(_BACKBONE)
            image = file.get_tensor(_IMAGE).numpy() if _IMAGE in file.keys() else None  # noqa: SIM118 - no mapping
            named = [name for name in file.keys() if name.startswith(_INPUT)]  # noqa: SIM118
            inputs = {name.removeprefix(_INPUT): file.get_tensor(name) for name in named}
            trajectory = Trajectory(file.get_tensor(_LATENTS), image, inputs)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{path}: cannot be read as the trajectory of a generated clip: {error}") from error
    if sampled_by != fingerprint:
        raise BackboneError(
            f"{path}: another backbone sampled this clip; visit it by add_noise or ddim_inversion, or sample it again"
        )
    return trajectory
