"""Chooses the kernels for a GPU: those for Hopper where they work, else the general ones."""

import math
import warnings
from functools import cache

import torch
from torch import Tensor

__all__ = ["on_hopper"]

_HOPPER = 9
"""Major compute capability: the kernels use instructions that neither older nor newer GPUs have."""


def on_hopper(*tokens: Tensor) -> bool:
    """Return whether the kernels for Hopper take these descriptors [head, frame, token, channel]."""
    return _run_here(tokens[0].device) and all(_in_tiles(part) for part in tokens)


def _in_tiles(tokens: Tensor) -> bool:
    """Return whether the tensor memory accelerator can load tiles of them, and of densely gathered tokens."""
    return (
        tokens.dtype in (torch.float16, torch.bfloat16)
        and tokens.shape[-1] <= 128
        and tokens.shape[-1] % 8 == 0
        and tokens.data_ptr() % 16 == 0
        and tokens.stride(-1) == 1
        and all(stride > 0 and stride % 8 == 0 for stride in tokens.stride()[:-1])
    )


@cache
def _run_here(device: torch.device) -> bool:
    """Try the kernels once: Gluon, their language, still changes between versions of Triton.

    Triton caches compiled kernels on disk, so this takes some seconds once per machine.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != _HOPPER:
        return False
    try:
        with torch.cuda.device(device):
            error = _largest_error(device)
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:
        problem = str(failure).strip().splitlines() or [type(failure).__name__]
        warnings.warn(f"kernels for Hopper GPUs do not run here, so slower ones are used: {problem[-1]}", stacklevel=2)
        return False
    if error > 1e-3:
        warnings.warn(f"kernels for Hopper GPUs are off by {error:.1e} here, so slower ones are used", stacklevel=2)
    return error <= 1e-3


def _largest_error(device: torch.device) -> float:
    """Compare the kernels with plain matrix products of a few tokens."""
    from difftrack.correspondence.kernels._hopper_head_mean import fill_hopper_head_mean
    from difftrack.correspondence.kernels._hopper_normaliser import hopper_normalisers

    source, target = torch.arange(2 * 70 * 64 * 2, device=device).sin().bfloat16().reshape(2, 2, 1, 70, 64)
    forth = hopper_normalisers(source, target, scale=1.0, log_weight=0.0)
    back = hopper_normalisers(target, source, scale=1.0, log_weight=0.0)
    rows = torch.empty(1, 70, 70, device=device)
    fill_hopper_head_mean((source, target, source, target), forth, back, rows, scale=1.0)
    scores = source[:, 0].float() @ target[:, 0].float().transpose(-2, -1) * math.log(2)
    expected = scores.softmax(dim=-1) + scores.softmax(dim=-2)
    return float((rows[0] - expected.sum(dim=0)).abs().max())
