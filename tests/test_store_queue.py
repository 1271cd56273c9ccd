"""The write path: casts and checks where the tensors are, a bounded queue, threads that write."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from difftrack.geometry import TokenGrid
from difftrack.store import DescriptorSpec, GroupWriter, StoreError, StoreParams, _encoder, create_group, open_store
from difftrack.store._spec import ArrayLayout
from difftrack.store.torch_writer import WriteQueue, as_read

SPEC = DescriptorSpec(
    steps=(3, 17),
    timesteps=(900.0, 500.0),
    layers=(0, 4, 7),
    heads=(0, 1),
    num_channels=11,
    grid=TokenGrid(num_latent_frames=3, rows=5, cols=7, stride_px=8, temporal_stride=4),
    frames=(0, 4, 8),
    clip_size=(40, 56),
    size=(40, 56),
    kinds=("query", "key"),
    text_mask=(True,) * 13,
)


def unit(step: int, layer: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + layer)
    return {entry: torch.randn(SPEC.entry_shape(entry), generator=generator).to(dtype) for entry in SPEC.entries}


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def array(tensor: Tensor) -> np.ndarray:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "params",
    [StoreParams(), StoreParams(round_to_bf16=True), StoreParams(dtype="bfloat16"), StoreParams(dtype="int8")],
    ids=["float16", "rounded", "bfloat16", "int8"],
)
def test_tensors_give_the_bytes_that_their_arrays_give(tmp_path: Path, params: StoreParams, dtype: torch.dtype) -> None:
    plain = create_group(tmp_path / "plain", "clip", SPEC, params=params)
    queued = create_group(tmp_path / "queued", "clip", SPEC, params=params)
    with WriteQueue(num_threads=3, depth=2) as units:
        for step, layer in SPEC.units:
            tensors = unit(step, layer, dtype)
            units.put(queued, step, layer, {entry: tensor.mT.contiguous().mT for entry, tensor in tensors.items()})
            plain.write(step, layer, {entry: array(tensor) for entry, tensor in tensors.items()})
        units.finish(queued).result()
    plain.finish()
    assert digest(tmp_path / "queued") == digest(tmp_path / "plain")


def test_never_more_units_are_on_their_way_than_the_queue_is_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create_group(tmp_path, "clip", SPEC)
    disk = threading.Event()
    write = GroupWriter.write

    def slow(self: GroupWriter, *args: object, **kwargs: object) -> None:
        assert disk.wait(20)
        write(self, *args, **kwargs)

    monkeypatch.setattr(GroupWriter, "write", slow)
    taken: list[tuple[int, int]] = []
    full = threading.Semaphore(0)
    with WriteQueue(num_threads=1, depth=2) as units:

        def compute() -> None:
            for step, layer in SPEC.units:
                units.put(writer, step, layer, unit(step, layer))
                taken.append((step, layer))
                full.release()

        model = threading.Thread(target=compute)
        model.start()
        for _ in range(2):
            assert full.acquire(timeout=20)
        assert not full.acquire(timeout=0.2)
        assert len(taken) == 2
        disk.set()
        model.join(20)
        units.finish(writer).result()
    assert len(taken) == len(SPEC.units)


def test_a_unit_keeps_its_memory_until_all_its_arrays_are_done_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, failed = threading.Event(), threading.Event()
    encode = _encoder.encode_chunk

    def encode_or_fail(layout: ArrayLayout, numbers: np.ndarray, index: int) -> tuple[bytes, bytes]:
        if layout.name == "query":
            failed.set()
            raise OSError("no space left")
        assert going_on.wait(20)
        return encode(layout, numbers, index)

    monkeypatch.setattr(_encoder, "encode_chunk", encode_or_fail)
    writer = create_group(tmp_path, "clip", SPEC)
    arrays = {entry: array(tensor) for entry, tensor in unit(3, 0, torch.float16).items()}
    with ThreadPoolExecutor(3) as pool, ThreadPoolExecutor(1) as other:
        written = other.submit(writer.write, 3, 0, arrays, pool=pool)
        assert failed.wait(20)
        assert not wait([written], timeout=0.2).done
        going_on.set()
        with pytest.raises(OSError, match="no space left"):
            written.result(20)
    assert len(list((tmp_path / "clip" / "key").rglob("c.*"))) == 1
    assert not list((tmp_path / "clip" / "query").rglob("c.*"))


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_value_that_does_not_fit_is_refused_by_name_and_the_other_groups_go_on(
    tmp_path: Path, num_threads: int
) -> None:
    def write(units: WriteQueue, group: str, value: float) -> None:
        writer = create_group(tmp_path, group, SPEC)
        for step, layer in SPEC.units:
            tensors = unit(step, layer)
            if layer == 4:
                tensors["key"][1, 2, 3, 4, 5] = value
            units.put(writer, step, layer, tensors)
        units.finish(writer).result()

    with WriteQueue(num_threads=num_threads) as units:
        with pytest.raises(StoreError, match=r"bad, step 3, layer 4: key: the value 70000 exceeds"):
            write(units, "bad", 70000)
        write(units, "good", 65504)
    assert len(list(open_store(tmp_path).dataset("good")["query"].layer)) == 3
    with pytest.raises(StoreError, match="incomplete"):
        open_store(tmp_path).spec("bad")


def test_progress_counts_the_bytes_of_units_that_are_on_disk(tmp_path: Path) -> None:
    writer = create_group(tmp_path, "clip", SPEC)
    counted: list[int] = []
    with WriteQueue(num_threads=0) as units:
        units.put(writer, 3, 0, unit(3, 0), written=counted.append)
    tokens = 3 * 5 * 7
    assert counted == [2 * 2 * 11 * (2 * tokens + 13)]


def test_a_closed_queue_refuses_units_and_holds_no_memory(tmp_path: Path) -> None:
    queue = WriteQueue(num_threads=1, depth=2)
    writer = create_group(tmp_path, "clip", SPEC)
    queue.put(writer, 3, 0, unit(3, 0))
    for slot in queue._all_slots:
        slot.buffer = torch.empty(7)  # as if tensors came from a GPU
    queue.close()
    assert all(slot.buffer is None and not slot.held for slot in queue._all_slots)
    with pytest.raises(RuntimeError, match="shutdown"):
        queue.put(writer, 3, 4, unit(3, 4))


def test_finishing_before_everything_was_put_names_what_is_missing(tmp_path: Path) -> None:
    writer = create_group(tmp_path, "clip", SPEC)
    with WriteQueue(num_threads=2) as units:
        units.put(writer, 3, 0, unit(3, 0))
        with pytest.raises(StoreError, match=r"\(step 3, layer 4\).*not written"):
            units.finish(writer).result()


@pytest.mark.parametrize(("num_threads", "depth"), [(-1, 4), (2, 0)])
def test_a_queue_without_room_is_refused(num_threads: int, depth: int) -> None:
    with pytest.raises(ValueError, match="at least 0 and 1"):
        WriteQueue(num_threads=num_threads, depth=depth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored_as", ["float16", "bfloat16", "int8"])
def test_what_would_be_read_is_known_without_writing(tmp_path: Path, stored_as: str, dtype: torch.dtype) -> None:
    params = StoreParams(dtype=stored_as)
    writer = create_group(tmp_path, "clip", SPEC, params=params)
    with WriteQueue(num_threads=0) as units:
        for step, layer in SPEC.units:
            units.put(writer, step, layer, unit(step, layer, dtype))
        units.finish(writer).result()
    read = torch.from_numpy(open_store(tmp_path).sel(clip="clip", step=17, layer=4, kind="key"))
    expected = as_read(unit(17, 4, dtype)["key"], params)
    assert expected.dtype == read.dtype
    assert torch.equal(expected, read)


def test_what_could_not_be_stored_is_not_read_either() -> None:
    with pytest.raises(ValueError, match="the value 70000 exceeds"):
        as_read(torch.tensor([[1.0, 70000.0]]), StoreParams())


@pytest.mark.gpu
def test_tensors_on_a_gpu_give_the_same_bytes(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for device in ("cpu", "cuda"):
        writer = create_group(tmp_path / device, "clip", SPEC)
        with WriteQueue(num_threads=2, depth=2) as units:
            for step, layer in SPEC.units:
                units.put(writer, step, layer, {name: t.to(device) for name, t in unit(step, layer).items()})
            units.finish(writer).result()
    assert digest(tmp_path / "cuda") == digest(tmp_path / "cpu")
