"""One launch in place of dozens: what a GPU did for some tensors, recorded and replayed."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from difftrack.correspondence._tensor_cache import handed_out

__all__ = ["Recordings", "side_by_side"]

LabelsT = TypeVar("LabelsT")
ResultT = TypeVar("ResultT")
_Place = tuple[tuple[str, int, tuple[int, ...], tuple[int, ...], torch.dtype], ...]

_ONE_AT_A_TIME = Lock()
"""Lock of all recordings in this process: only one may be made at a time, and those that share memory run in turn."""

_IS_RECORDED: ContextVar[bool] = ContextVar("_IS_RECORDED", default=False)
"""Whether what this thread computes is being recorded, or tried out for that."""


@dataclass(frozen=True, slots=True)
class _Recording(Generic[LabelsT]):
    """Kernels that read tensors at fixed places of a GPU's memory, and a copy of what they give to the host."""

    graph: torch.cuda.CUDAGraph
    labels: LabelsT
    on_host: Tensor
    """Pinned, and shared with other recordings; each replay writes it."""
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
    outlive their call.

    Args:
        after: Times that a set of places is computed plainly before it is recorded: a recording costs as much as some
            ten replays save.
        most: Sets of places that are remembered; those that were not needed for longest go first.
    """

    def __init__(self, *, after: int = 4, most: int = 64) -> None:
        self._after, self._most = after, most
        self._known: OrderedDict[_Place, _Recording[LabelsT] | int] = OrderedDict()
        self._on_host: Tensor | None = None

    def __call__(
        self, compute: Callable[[Mapping[str, Tensor]], tuple[LabelsT, Tensor]], given: Mapping[str, Tensor]
    ) -> tuple[LabelsT, Num[np.ndarray, " number"]]:
        """Give labels, and the numbers on the host; threads take turns.

        Args:
            compute: The same every time. Takes named tensors and gives labels, and numbers on the same GPU; it waits
                for nothing there, draws nothing at random, and chooses what to do by names, shapes and types alone. It
                is not kept: its owner may own these recordings, and their memory is to go when the owner goes.
            given: On one GPU.

        Raises:
            RuntimeError: `compute` does what cannot be recorded.
        """
        place = tuple(
            (name, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            for name, tensor in given.items()
        )
        device = next(iter(given.values())).device
        with _ONE_AT_A_TIME, torch.cuda.device(device):
            known = self._known.pop(place, 0)
            if known == self._after:
                # Memory that lies idle elsewhere is out of a recording's reach.
                with suppress(torch.OutOfMemoryError):
                    known = self._record(compute, given, _stream(device))
            if isinstance(known, int):  # what could not be recorded is counted anew
                known = 0 if known == self._after else known + 1
            self._known[place] = known
            if len(self._known) > self._most:
                self._known.popitem(last=False)
            if not isinstance(known, int):
                return known.replay()
            labels, numbers = compute(given)
            return labels, numbers.cpu().numpy()

    def _record(
        self,
        compute: Callable[[Mapping[str, Tensor]], tuple[LabelsT, Tensor]],
        given: Mapping[str, Tensor],
        side: torch.cuda.Stream,
    ) -> _Recording[LabelsT]:
        """Record without computing; all recordings share their scratch memory, as one runs at a time."""
        before = torch.cuda.current_stream()
        side.wait_stream(before)
        token = _IS_RECORDED.set(True)
        try:
            with torch.cuda.stream(side), handed_out() as held:
                _, numbers = compute(given)  # makes workspaces of libraries and what is kept: nothing may wait later
                on_host = self._room_for(numbers)
                graph, pool = torch.cuda.CUDAGraph(), self._scratch()
                # `torch.cuda.graph` would wait for the GPU, collect garbage and give all unused memory back each time.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    labels, numbers = compute(given)
                    on_host.copy_(numbers, non_blocking=True)
                except BaseException:
                    with suppress(RuntimeError), warnings.catch_warnings(action="ignore"):  # of no use, as is known
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            _IS_RECORDED.reset(token)
        before.wait_stream(side)
        return _Recording(graph, labels, on_host, held)

    def _scratch(self) -> Any:  # noqa: ANN401 - torch's handle of a pool
        """The pool of a recording that is still there, as torch does not take one up again whose last user is gone.

        Without one, memory of pools whose owners are gone is given back first: no recording can make the GPU do so.
        """
        for known in self._known.values():
            if isinstance(known, _Recording):
                return known.graph.pool()
        torch.cuda.empty_cache()
        return torch.cuda.graph_pool_handle()

    def _room_for(self, numbers: Num[Tensor, " number"]) -> Num[Tensor, " number"]:
        """Pinned memory of that size, shared by all recordings; every replay copies its result out of it."""
        if self._on_host is None or self._on_host.shape != numbers.shape or self._on_host.dtype != numbers.dtype:
            with torch.inference_mode(False):
                self._on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        return self._on_host


def side_by_side(parts: Sequence[Callable[[], ResultT]]) -> list[ResultT]:
    """Compute parts that do not depend on one another, side by side where a GPU's work is recorded.

    There the first part should be the largest: the kernels of the others go before those of its blocks that wait for
    room. Elsewhere one part follows the other: launching takes longer than that gains.
    """
    if not _IS_RECORDED.get():
        return [part() for part in parts]
    here = torch.cuda.current_stream()
    others, forked = [], []
    try:
        for number, part in enumerate(parts[1:], start=1):
            stream = _stream(here.device, number)
            stream.wait_stream(here)
            forked.append(stream)
            with torch.cuda.stream(stream):
                others.append(part())
        return [parts[0](), *others]
    finally:  # what is not joined could not be ended
        for stream in forked:
            here.wait_stream(stream)


@cache
def _stream(device: torch.device, number: int = 0) -> torch.cuda.Stream:
    """Number 0 is recorded on, the others beside it and first: small kernels would wait for all blocks of large ones.

    They are the same for all recordings: no stream can use the scratch memory of another.
    """
    return torch.cuda.Stream(device, priority=0 if number == 0 else -1)  # type: ignore[no-untyped-call]
