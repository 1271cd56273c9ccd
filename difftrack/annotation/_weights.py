"""Weights of trackers from local files."""

import pickle
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

__all__ = ["read_weights"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, .safetensors or .pth, without running code.

    Raises:
        ValueError: it holds more than weights, or is damaged.
        OSError: it cannot be read.
    """
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights, or is damaged") from error
    return cast(dict[str, Tensor], loaded.get("model", loaded))
