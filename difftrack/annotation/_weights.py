"""Read weights of trackers from local files, and select the device of trackers."""

import pickle
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

__all__ = ["read_weights", "tracker_device"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, .safetensors or .pth, without running code.

    Raises:
        ValueError: the file contains more than weights, or is damaged.
        OSError: the file cannot be read.
    """
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} contains more than weights, or is damaged") from error
    return cast(dict[str, Tensor], loaded.get("model", loaded))


def tracker_device(name: str) -> torch.device:
    """Return the torch device of that name; `auto` uses CUDA if torch finds a GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
