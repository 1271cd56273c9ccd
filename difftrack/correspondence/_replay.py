"""One launch in place of dozens: a GPU's work, recorded once and replayed on other values."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Replay"]

ResultT = TypeVar("ResultT")


class Replay(Generic[ResultT]):
    """A computation on tensors that stay where they are, recorded as a CUDA graph.

    At the size of a small backbone, launching kernels one by one takes several times as long as running them.

    Args:
        compute: Takes `buffers` and gives tensors; it waits for nothing on the GPU, draws no random numbers, and
            chooses what to do by shapes alone.
        buffers: Tensors on one GPU. New values are written into them before each call. They, and all other tensors of
            the GPU that `compute` uses, must live as long as this.

    Raises:
        RuntimeError: `compute` does what cannot be recorded.
    """

    def __init__(self, compute: Callable[..., ResultT], *buffers: Tensor) -> None:
        self._buffers = buffers
        side = torch.cuda.Stream(buffers[0].device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(buffers[0].device))
        with torch.cuda.stream(side):
            compute(*buffers)  # compiles, makes the workspaces of libraries, fills caches
        torch.cuda.current_stream(buffers[0].device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = compute(*buffers)

    def __call__(self) -> ResultT:
        """Give the results for what is in the buffers now, in tensors that the next call overwrites."""
        self._graph.replay()
        return self._results
