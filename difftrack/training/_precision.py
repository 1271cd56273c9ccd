"""How a network computes on the device that trains: its precision, its memory layout, and which parts are compiled."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Literal, TypeVar

import torch
import torch._inductor.config
from torch import nn

__all__ = ["Precision", "PrecisionWorker", "compile_parts"]

Precision = Literal["float32", "autocast", "bfloat16"]
"""`autocast` keeps norms in float32; `bfloat16` runs forward and backward on a bfloat16 copy of float32 weights, which
halves the memory traffic of a network that is mostly norms and convolutions."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class PrecisionWorker:
    """The module that runs forward and backward for a module whose float32 weights are trained.

    Attributes:
        master: The module whose weights are trained.
        module: The trained module itself, or its bfloat16 copy.
        dtype: What it wants to be given.
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
        """Around the forward."""
        return torch.autocast(self._device.type, torch.bfloat16) if self._precision == "autocast" else nullcontext()

    def hand_over(self) -> None:
        """Give the trained weights their gradients."""
        if self._precision == "bfloat16":
            for weight, own in zip(self._weights, self._own, strict=True):
                # Laid out as the weight, since the copy may keep its channels last.
                weight.grad = None if own.grad is None else torch.empty_like(weight).copy_(own.grad)
                own.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the trained weights after a step."""
        if self._precision == "bfloat16":
            torch._foreach_copy_(self._own, self._weights)


def _put_channels_last(module: nn.Module) -> None:
    """Lay out the weights of convolutions over pictures and over videos with channels last."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in module.parameters():
        if weight.dim() in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])


def compile_parts(parts: Iterable[nn.Module], *, dynamic: bool | None) -> None:
    """Compile modules in place; whatever cannot be compiled runs as it is.

    Args:
        parts: Modules.
        dynamic: False compiles anew for every shape, None leaves sizes open once a second one is seen.
    """
    config = torch._dynamo.config
    config.suppress_errors = True
    config.recompile_limit = max(config.recompile_limit, 64)
    # Torch 2.11 cannot analyse blocks of open sizes and would run them as they are, at half the speed.
    torch._inductor.config.triton.coalesce_tiling_analysis = False
    for part in parts:
        part.compile(dynamic=dynamic)
