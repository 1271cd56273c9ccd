"""The latents that a sampled clip went through, kept beside the clip."""

from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from difftrack.backbones._errors import BackboneError

__all__ = ["read_trajectory", "write_trajectory"]

_LATENTS, _BACKBONE = "latents", "backbone"


def write_trajectory(
    path: Path, trajectory: Float[Tensor, "step latent_frame channel row col"], *, fingerprint: str
) -> None:
    """Write a trajectory as safetensors; the file appears under its name when it is complete.

    Args:
        path: Of the file.
        trajectory: Latents that entered each step.
        fingerprint: Of the backbone that sampled.
    """
    part = path.with_name(f".{path.name}.part")
    save_file({_LATENTS: trajectory.contiguous()}, part, metadata={_BACKBONE: fingerprint})
    part.replace(path)


def read_trajectory(path: Path, *, fingerprint: str) -> Float[Tensor, "step latent_frame channel row col"]:
    """Read what `write_trajectory` wrote.

    Args:
        path: Of the file.
        fingerprint: Of the backbone that is going to read it.

    Raises:
        BackboneError: the file is missing or damaged, or another backbone sampled it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            sampled_by = (file.metadata() or {}).get(_BACKBONE)
            latents: Tensor = file.get_tensor(_LATENTS)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{path}: cannot be read as the trajectory of a generated clip: {error}") from error
    if sampled_by != fingerprint:
        raise BackboneError(
            f"{path}: another backbone sampled this clip; visit it by add_noise or ddim_inversion, or sample it again"
        )
    return latents
