"""Precision, memory layout and compilation of a network during training."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Literal, TypeVar

import torch
import torch._inductor.config
from torch import nn

__all__ = ["Precision", "PrecisionWorker", "compile_parts"]

Precision = Literal["float32", "autocast", "bfloat16"]
"""`autocast` keeps norms in float32. `bfloat16` runs the forward and backward passes on a bfloat16 copy of the float32
weights, which halves the memory traffic of a network that consists mostly of norms and convolutions."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class PrecisionWorker:
    """Runs the forward and backward passes, in a chosen precision, for a module with float32 weights.

    Attributes:
        master: The module whose weights are trained.
        module: The trained module itself, or its bfloat16 copy.
        dtype: The dtype of its inputs.
    """

    def __init__(self, master: nn.Module, precision: Precision, *, channels_last: bool = False) -> None:
        self.master = master
        self._precision = precision
        self._device = next(master.parameters()).device
        self._weights: list[torch.Tensor] = [value for value in master.parameters() if value.requires_grad]
        self.module = deepcopy(master).to(torch.bfloat16) if precision == "bfloat16" else master
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        if channels_last:
            _put_channels_last(self.module)
        self._own: list[torch.Tensor] = [value for value in self.module.parameters() if value.requires_grad]

    def context(self) -> AbstractContextManager[object]:
        """Return the context manager that the forward pass needs."""
        return torch.autocast(self._device.type, torch.bfloat16) if self._precision == "autocast" else nullcontext()

    def hand_over(self) -> None:
        """Copy the gradients from the bfloat16 copy to the float32 weights."""
        if self._precision == "bfloat16":
            for weight, own in zip(self._weights, self._own, strict=True):
                # The gradient takes the weight's memory layout; the copy's may be channels last.
                weight.grad = None if own.grad is None else torch.empty_like(weight).copy_(own.grad)
                own.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the float32 weights to the bfloat16 copy after a step."""
        if self._precision == "bfloat16":
            torch._foreach_copy_(self._own, self._weights)


def _put_channels_last(module: nn.Module) -> None:
    """Store the weights of 2D and 3D convolutions with channels last."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in module.parameters():
        if weight.dim() in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])


def compile_parts(parts: Iterable[nn.Module], *, dynamic: bool | None) -> None:
    """Compile modules in place; code that cannot be compiled runs uncompiled.

    Args:
        parts: The modules to compile.
        dynamic: False compiles once per shape; None compiles with dynamic sizes from the second shape on.
    """
    config = torch._dynamo.config
    config.suppress_errors = True
    config.recompile_limit = max(config.recompile_limit, 64)
    # Torch 2.11 cannot analyse blocks with dynamic sizes and would run them uncompiled, at half the speed.
    torch._inductor.config.triton.coalesce_tiling_analysis = False
    for part in parts:
        part.compile(dynamic=dynamic)
