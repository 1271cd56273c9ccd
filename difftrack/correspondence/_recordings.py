"""One launch in place of dozens: what a GPU did for some tensors, recorded and replayed."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from difftrack.correspondence._kept import handed_out

__all__ = ["Recordings"]

LabelsT = TypeVar("LabelsT")
_Place = tuple[tuple[str, int, tuple[int, ...], tuple[int, ...], torch.dtype], ...]


@dataclass(frozen=True, slots=True)
class _Recording(Generic[LabelsT]):
    """Kernels that read tensors at fixed places of a GPU's memory, and a copy of what they give to the host."""

    graph: torch.cuda.CUDAGraph
    labels: LabelsT
    on_host: Tensor
    """Pinned; each replay writes it."""
    held: list[Any]
    """Kept tensors that the kernels read besides, which must not go away before them."""

    def replay(self) -> tuple[LabelsT, Num[np.ndarray, " number"]]:
        self.graph.replay()
        torch.cuda.current_stream().synchronize()
        return self.labels, self.on_host.numpy().copy()


class Recordings(Generic[LabelsT]):
    """A computation on a GPU, recorded as CUDA graphs, one for each set of places in memory where its inputs lie.

    A graph reads the memory that it was recorded with, so it serves whatever lies there now in the same layout: an
    allocator gives the tensors of one layer or step the places of those before. Nothing is copied, and inputs need not
    outlive their call. Places seen once are computed plainly, places seen twice are recorded.

    Args:
        compute: Takes named tensors and gives labels, and numbers on the same GPU; it waits for nothing there, draws
            nothing at random, and chooses what to do by names, shapes and types alone.
        most: Sets of places that are remembered; those that were not needed for longest go first.
    """

    def __init__(self, compute: Callable[[Mapping[str, Tensor]], tuple[LabelsT, Tensor]], *, most: int = 64) -> None:
        self._compute = compute
        self._most = most
        self._known: OrderedDict[_Place, _Recording[LabelsT] | None] = OrderedDict()
        self._pool: Any = None

    def __call__(self, given: Mapping[str, Tensor]) -> tuple[LabelsT, Num[np.ndarray, " number"]]:
        """Give labels, and the numbers on the host.

        Raises:
            RuntimeError: `compute` does what cannot be recorded.
        """
        place = tuple(
            (name, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            for name, tensor in given.items()
        )
        seen = place in self._known
        recording = self._known.get(place)
        if seen and recording is None:
            recording = self._record(given)
        self._known[place] = recording
        self._known.move_to_end(place)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        if recording is not None:
            with torch.cuda.device(next(iter(given.values())).device):
                return recording.replay()
        labels, numbers = self._compute(given)
        return labels, numbers.cpu().numpy()

    def _record(self, given: Mapping[str, Tensor]) -> _Recording[LabelsT]:
        """Record without computing; all recordings share their scratch memory, as one runs at a time."""
        device = next(iter(given.values())).device
        with torch.cuda.device(device), handed_out() as held:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                _, numbers = self._compute(
                    given
                )  # makes workspaces of libraries and what is kept: nothing may wait later
            torch.cuda.current_stream().wait_stream(side)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                labels, numbers = self._compute(given)
                on_host.copy_(numbers, non_blocking=True)
        return _Recording(graph, labels, on_host, held)
