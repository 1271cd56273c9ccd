"""CUDA graphs: one launch replays a recorded computation of dozens of kernels."""

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
"""Whether this thread's computation is being recorded, or warmed up for recording."""


@dataclass(frozen=True, slots=True)
class _Recording(Generic[LabelsT]):
    """Kernels that read tensors at fixed addresses of GPU memory, and a copy of their results to the host."""

    graph: torch.cuda.CUDAGraph
    labels: LabelsT
    on_host: Tensor
    """Pinned memory, shared with other recordings; each replay overwrites it."""
    held: list[Any]
    """Cached tensors that the kernels also read; they must live as long as the recording."""

    def replay(self) -> tuple[LabelsT, Num[np.ndarray, " number"]]:
        self.graph.replay()
        torch.cuda.current_stream().synchronize()
        return self.labels, self.on_host.numpy().copy()


class Recordings(Generic[LabelsT]):
    """A computation on a GPU, recorded as CUDA graphs, one for each set of addresses of its inputs.

    A graph reads the memory that it was recorded with, so it serves any later tensors at the same addresses in the same
    layout; the allocator reuses the addresses for the next layer or step. Nothing is copied, and inputs need not
    outlive their call.

    Args:
        after: Plain calls of a set of addresses before it is recorded: a recording costs what about ten replays save.
        most: Sets of addresses that are remembered; the least recently used is dropped first.
    """

    def __init__(self, *, after: int = 4, most: int = 64) -> None:
        self._after, self._most = after, most
        self._known: OrderedDict[_Place, _Recording[LabelsT] | int] = OrderedDict()
        self._on_host: Tensor | None = None

    def __call__(
        self, compute: Callable[[Mapping[str, Tensor]], tuple[LabelsT, Tensor]], given: Mapping[str, Tensor]
    ) -> tuple[LabelsT, Num[np.ndarray, " number"]]:
        """Return the labels, and the numbers on the host; threads take turns.

        Args:
            compute: The same function every time. Takes named tensors and returns labels, and numbers on the same GPU.
                It must not wait for the GPU or draw random numbers, and may branch on names, shapes and types only. No
                reference to it is stored, so its owner can be freed.
            given: Named tensors on one GPU.

        Raises:
            RuntimeError: `compute` cannot be recorded.
        """
        place = tuple(
            (name, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            for name, tensor in given.items()
        )
        device = next(iter(given.values())).device
        with _ONE_AT_A_TIME, torch.cuda.device(device):
            known = self._known.pop(place, 0)
            if known == self._after:
                # A recording cannot use idle memory of other pools.
                with suppress(torch.OutOfMemoryError):
                    known = self._record(compute, given, _stream(device))
            if isinstance(known, int):  # a failed recording starts the count again
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
        """Record without computing; all recordings share scratch memory, because one runs at a time."""
        before = torch.cuda.current_stream()
        side.wait_stream(before)
        token = _IS_RECORDED.set(True)
        try:
            with torch.cuda.stream(side), handed_out() as held:
                # Creates library workspaces and cached tensors: nothing may wait during the recording.
                _, numbers = compute(given)
                on_host = self._room_for(numbers)
                graph, pool = torch.cuda.CUDAGraph(), self._scratch()
                # `torch.cuda.graph` would wait for the GPU, collect garbage and release all unused memory each time.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    labels, numbers = compute(given)
                    on_host.copy_(numbers, non_blocking=True)
                except BaseException:
                    with suppress(RuntimeError), warnings.catch_warnings(action="ignore"):  # an expected warning
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            _IS_RECORDED.reset(token)
        before.wait_stream(side)
        return _Recording(graph, labels, on_host, held)

    def _scratch(self) -> Any:  # noqa: ANN401 - torch's handle of a pool
        """Return the pool of a live recording; torch cannot reuse a pool whose last user was freed.

        If there is none, memory of unused pools is released first, which is impossible during a recording.
        """
        for known in self._known.values():
            if isinstance(known, _Recording):
                return known.graph.pool()
        torch.cuda.empty_cache()
        return torch.cuda.graph_pool_handle()

    def _room_for(self, numbers: Num[Tensor, " number"]) -> Num[Tensor, " number"]:
        """Pinned memory of this size, shared by all recordings; every replay copies its result out of it."""
        if self._on_host is None or self._on_host.shape != numbers.shape or self._on_host.dtype != numbers.dtype:
            with torch.inference_mode(False):
                self._on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        return self._on_host


def side_by_side(parts: Sequence[Callable[[], ResultT]]) -> list[ResultT]:
    """Compute independent parts, in parallel where a GPU's work is recorded.

    The first part should be the largest: kernels of the others run before its blocks that wait for room. Without
    recording, parts run in sequence, because launching costs more than parallel execution gains.
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
    finally:  # a recording cannot end with unjoined streams
        for stream in forked:
            here.wait_stream(stream)


@cache
def _stream(device: torch.device, number: int = 0) -> torch.cuda.Stream:
    """Return stream 0, which records the first part, or one of the others.

    The others have priority, since small kernels would wait for all blocks of large ones. All recordings use the same
    streams, because no stream can use the scratch memory of another.
    """
    return torch.cuda.Stream(device, priority=0 if number == 0 else -1)  # type: ignore[no-untyped-call]
