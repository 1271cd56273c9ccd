"""Write tensors in the background while a model computes; import this module by name, because it needs torch.

    capture -> cast and finite check on the device -> copy to a pinned buffer on a side stream -> bounded queue ->
    threads that share the chunks of a unit; the thread that encodes the last chunk of an array writes its shard

`put` never waits for the device. It only waits for a free slot, so at most `depth` units are queued, even if the disk
is slow.
"""

import queue
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from difftrack.store._encodings import encoding_of
from difftrack.store._params import StoreParams
from difftrack.store._writer import GroupWriter

__all__ = ["WriteQueue", "as_read"]

Written = Callable[[int], None]
"""Called, from any thread, with the bytes before compression of each unit that has been written."""


@dataclass(slots=True)
class _Slot:
    """Memory for one queued unit."""

    buffer: Tensor | None = None
    """Pinned memory, reused for later units; None until a tensor comes from a GPU."""
    held: list[Tensor] = field(default_factory=list)
    """Tensors that the device still reads, or that are needed if a value is refused."""

    def pinned(self, num_bytes: int) -> Tensor:
        if self.buffer is None or self.buffer.numel() < num_bytes:
            self.buffer = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return self.buffer


@dataclass(slots=True)
class _Staged:
    """One unit that is, or is being copied, in host memory."""

    entries: dict[str, Tensor]
    """Tensors on the host; complete after the event `copied`."""
    finite: Tensor | None
    """One boolean on the host; None if the writer must convert and check."""
    copied: torch.cuda.Event | None


class WriteQueue:
    """Writes units of several groups while later units are computed.

    Args:
        num_threads: Number of threads that encode and write; 0 writes inside `put`.
        depth: Maximum number of queued units, in pinned memory, waiting, or being written.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, *, num_threads: int, depth: int = 4) -> None:
        if num_threads < 0 or depth < 1:
            raise ValueError(f"num_threads is {num_threads}, depth is {depth}; they must be at least 0 and 1")
        self._encoders = ThreadPoolExecutor(num_threads, thread_name_prefix="encoder") if num_threads else None
        # These threads wait for the device and the encoders: one for each queued unit, and some for whole groups.
        self._threads = ThreadPoolExecutor(2 * depth, thread_name_prefix="writer") if num_threads else None
        self._all_slots = tuple(_Slot() for _ in range(depth))
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in self._all_slots:
            self._slots.put(slot)
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._units: dict[GroupWriter, list[Future[None]]] = defaultdict(list)

    def put(
        self,
        writer: GroupWriter,
        step: int,
        layer: int,
        tensors: Mapping[str, Shaped[Tensor, "..."]],
        *,
        written: Written = lambda num_bytes: None,
    ) -> None:
        """Queue one unit; waits while `depth` units are queued.

        Args:
            writer: Writer of the unit's group.
            step: One of the group's steps.
            layer: One of the group's layers.
            tensors: Entry -> tensor in float32, float16 or bfloat16, on any device; copied before `put` returns.
            written: Called when the unit is on disk.

        Raises:
            ValueError: this unit or an earlier unit of the group could not be written.
            OSError: an earlier unit of the group could not be written.
        """
        for unit in [unit for unit in self._units[writer] if unit.done()]:
            unit.result()
        slot = self._slots.get()
        try:
            staged = self._stage(slot, tensors, writer.params)
        except BaseException:
            self._release(slot)
            raise
        self._submit(writer, self._write, writer, step, layer, slot, staged, written)

    def finish(self, writer: GroupWriter) -> Future[None]:
        """Finish a group when its units are written, and release its lock; the future raises any error."""
        units = self._units.pop(writer, [])

        def complete() -> None:
            with writer:
                for unit in units:
                    unit.result()
                writer.finish()

        return _run(complete) if self._threads is None else self._threads.submit(complete)

    def close(self) -> None:
        """Wait for queued units and free the pinned memory, which the next queue then reuses."""
        for threads in (self._threads, self._encoders):
            if threads is not None:
                threads.shutdown()
        for slot in self._all_slots:
            slot.buffer = None

    def __enter__(self) -> "WriteQueue":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _submit(self, writer: GroupWriter, action: Callable[..., None], *args: object) -> None:
        if self._threads is None:
            action(*args)
        else:
            self._units[writer].append(self._threads.submit(action, *args))

    def _stage(self, slot: _Slot, tensors: Mapping[str, Tensor], params: StoreParams) -> _Staged:
        """Cast and check the tensors on their device, and start copying them to the host."""
        stored = {entry: _as_stored(tensor.detach(), params) for entry, tensor in tensors.items()}
        finite = None
        if params.dtype != "int8" and all(tensor.is_floating_point() for tensor in tensors.values()):
            finite = torch.stack([tensor.isfinite().all() for tensor in stored.values()]).all()
        slot.held = [*tensors.values(), *stored.values()]
        device = next(iter(stored.values())).device
        if device.type != "cuda":
            return _Staged(stored, finite, None)
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return _copy_to_host(slot, stored, finite, self._streams[device])

    def _write(
        self, writer: GroupWriter, step: int, layer: int, slot: _Slot, staged: _Staged, written: Written
    ) -> None:
        try:
            if staged.copied is not None:
                staged.copied.synchronize()
            entries, sound = staged.entries, staged.finite is not None and bool(staged.finite)
            if staged.finite is not None and not sound:  # the writer refuses the values with a detailed message
                entries = dict(zip(entries, slot.held, strict=False))
            arrays = {entry: _numbers(tensor) for entry, tensor in entries.items()}
            writer.write(step, layer, arrays, checked=sound, pool=self._encoders)
            written(sum(array.nbytes for array in arrays.values()))
        finally:
            self._release(slot)

    def _release(self, slot: _Slot) -> None:
        slot.held = []
        self._slots.put(slot)


def as_read(tensor: Float[Tensor, "..."], params: StoreParams) -> Float[Tensor, "..."]:
    """Return a tensor as a store would return it, on the tensor's device and without a store.

    Raises:
        ValueError: a value cannot be stored in this format.
    """
    if params.dtype != "int8":
        stored = _as_stored(tensor.detach(), params)
        if bool(stored.isfinite().all()):
            return stored.float() if params.dtype == "bfloat16" else stored
    encoding = encoding_of(params.dtype)
    codes, scale = encoding.encode(_numbers(tensor.detach()), round_to_bf16=params.round_to_bf16)
    return torch.from_numpy(encoding.decode(codes, scale)).to(tensor.device)


def _as_stored(tensor: Tensor, params: StoreParams) -> Tensor:
    """Return a contiguous copy in the stored dtype, or in its own dtype if the host must encode it."""
    if params.dtype == "int8" or not tensor.is_floating_point():
        return tensor.clone(memory_format=torch.contiguous_format)
    if params.dtype == "float16" and params.round_to_bf16:
        tensor = tensor.to(torch.bfloat16)
    dtype = torch.float16 if params.dtype == "float16" else torch.bfloat16
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _copy_to_host(
    slot: _Slot, stored: Mapping[str, Tensor], finite: Tensor | None, stream: torch.cuda.Stream
) -> _Staged:
    """Queue the copies on a side stream, without blocking the compute stream."""
    sizes = {entry: tensor.numel() * tensor.element_size() for entry, tensor in stored.items()}
    offsets = np.cumsum([0, *(-(-size // 16) * 16 for size in sizes.values())]).tolist()
    pinned = slot.pinned(offsets[-1] + 1)
    entries = {
        entry: pinned[start : start + sizes[entry]].view(tensor.dtype).view(tensor.shape)
        for start, (entry, tensor) in zip(offsets, stored.items(), strict=False)
    }
    flag = pinned[offsets[-1] : offsets[-1] + 1].view(torch.bool)
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for entry, tensor in stored.items():
            entries[entry].copy_(tensor, non_blocking=True)
        if finite is not None:
            flag.copy_(finite.view(1), non_blocking=True)
            slot.held.append(finite)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(stream)
    return _Staged(entries, None if finite is None else flag, copied)


def _numbers(tensor: Tensor) -> Num[np.ndarray, "..."]:
    """Convert to a numpy array; bfloat16 becomes uint16 with the same bits."""
    tensor = tensor.cpu().contiguous()
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _run(action: Callable[[], None]) -> Future[None]:
    """Run an action immediately; an exception is stored in the future, as by a thread."""
    done: Future[None] = Future()
    try:
        action()
        done.set_result(None)
    except Exception as error:
        done.set_exception(error)
    return done
