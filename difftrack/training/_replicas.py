"""Several GPUs that train one set of weights, one process each; alone is a case of it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["ALONE", "Replicas"]


@dataclass(frozen=True, slots=True)
class Replicas:
    """Processes that hold the same weights and train on clips of their own.

    Whoever loops asks for nothing that depends on a clock or on a file but through `agree`: every process must take the
    same turns, or they wait for each other for ever.
    """

    rank: int = 0
    count: int = 1
    _control: Any = None
    """Process group of plain numbers, on the CPU, so that agreeing does not wait for the GPU."""

    @classmethod
    def join(cls) -> "Replicas":
        """Meet the other processes that torchrun has started; alone if it has not."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return ALONE
        rank = int(os.environ["RANK"])
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", rank=rank, world_size=count)
        return cls(rank, count, dist.new_group(backend="gloo"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and looks at the clock."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """The first process's value."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, src=0, group=self._control)
        return float(shared)

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier(group=self._control)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes, which must have gradients of the same parameters."""
        if self.count == 1:
            return
        gradients: list[Tensor] = [value.grad for value in parameters if value.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat / self.count, [gradient.numel() for gradient in gradients])
        means = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, means)

    def leave(self) -> None:
        """Part from the others."""
        if self.count > 1:
            dist.destroy_process_group()


ALONE = Replicas()
"""One process."""
