"""Where trackers run."""

import torch

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """A torch device by name; `auto` is CUDA where there is any."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
