"""The device that matching runs on."""

import re

import torch

__all__ = ["matching_device"]


def matching_device(name: str) -> str:
    """The torch device of a name in params.yaml: `auto` is CUDA where there is one.

    Raises:
        ValueError: the name is unknown, or torch does not see this GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None:
        raise ValueError(f"device is {name!r}; expected auto, cpu, mps, cuda or cuda:N")
    device, num_gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(
            f"device is {name}, but torch sees {num_gpus} GPUs here, numbered from 0; use auto to take what there is"
        )
    return name
