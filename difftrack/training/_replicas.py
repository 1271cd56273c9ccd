"""Data-parallel training on several GPUs, one process each; a single process is the special case `ALONE`."""

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
    """Processes that hold the same weights and train on different clips.

    Read clocks and files only through `agree`: every process must take the same branches, otherwise the ranks deadlock.
    """

    rank: int = 0
    count: int = 1
    _control: Any = None
    """Process group on the CPU, so that `agree` and `wait` do not wait for the GPU."""

    @classmethod
    def join(cls) -> "Replicas":
        """Join the processes started by torchrun; without torchrun, return `ALONE`."""
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
        """Whether this is the process that writes files and reads the clock."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """Return the first process's value on every process."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, src=0, group=self._control)
        return float(shared)

    def wait(self) -> None:
        """Wait until every process has called this method."""
        if self.count > 1:
            dist.barrier(group=self._control)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes; all need gradients for the same parameters."""
        if self.count == 1:
            return
        gradients: list[Tensor] = [value.grad for value in parameters if value.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat / self.count, [gradient.numel() for gradient in gradients])
        means = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, means)

    def leave(self) -> None:
        """Leave the process group."""
        if self.count > 1:
            dist.destroy_process_group()


ALONE = Replicas()
"""A single process without a process group."""
