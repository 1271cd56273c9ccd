"""Where matching runs."""

import re

import torch

__all__ = ["matching_device"]


def matching_device(name: str) -> str:
    """The torch device of a name in params.yaml: `auto` is CUDA where there is one.

    Raises:
        ValueError: no device is called so, or it is a GPU that torch does not see.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None:
        raise ValueError(f"device is {name!r}; wanted: auto, cpu, mps, cuda or cuda:N")
    device, num_gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(
            f"device is {name}, counted from 0, and torch sees {num_gpus} GPUs here; auto takes what there is"
        )
    return name
