"""The descriptor store: one contract for every dtype, codec, chunking and place, and the effects of damage."""

import itertools
import json
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from difftrack.geometry import TokenGrid
from difftrack.store import (
    DescriptorSpec,
    StoreError,
    StoreParams,
    check_space,
    clip_group,
    create_group,
    open_store,
    open_writer,
    planned_bytes,
    read_results,
    result_groups,
    write_results,
)
from difftrack.store._encoder import encode_shard
from difftrack.store._encodings import encoding_of
from difftrack.store._schema import GroupSchema, group_files
from difftrack.store._spec import array_layouts
from difftrack.store._zarr_metadata import _files_without_attributes, create_array
from difftrack.store.torch_dataset import DescriptorDataset
from difftrack.testing import StoreLaws
from difftrack.testing._stores import spec_of_primes

Arrays = dict[str, np.ndarray]

FRAME_BYTES = 5 * 11 * 13 * 17 * 2

LAYOUTS = {
    "default": StoreParams(),
    "bfloat16": StoreParams(dtype="bfloat16"),
    "int8": StoreParams(dtype="int8"),
    "lz4, a chunk per frame": StoreParams(codec="blosc-lz4", chunk_bytes=1),
    "zstd, two frames a chunk, the last one half empty": StoreParams(codec="zstd", chunk_bytes=FRAME_BYTES + 1),
    "uncompressed, three frames a chunk": StoreParams(codec="none", chunk_bytes=3 * FRAME_BYTES),
    "int8 in small chunks": StoreParams(dtype="int8", codec="none", chunk_bytes=FRAME_BYTES),
    "rounded": StoreParams(round_to_bf16=True),
}


def make_spec(**changes: object) -> DescriptorSpec:
    return replace(spec_of_primes(), **changes)


def tiny_spec(**changes: object) -> DescriptorSpec:
    grid = TokenGrid(num_latent_frames=2, rows=3, cols=5, stride_px=8, temporal_stride=4)
    sizes = {"grid": grid, "frames": (0, 4), "size": (24, 40), "heads": (0, 1), "num_channels": 7}
    return make_spec(**{**sizes, "steps": (3,), "timesteps": (961.5,), "text_mask": (True, True, False), **changes})


def bf16_exact(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).to(torch.bfloat16).float().numpy()


def make_values(spec: DescriptorSpec, seed: int = 0) -> dict[tuple[int, int], Arrays]:
    rng = np.random.default_rng(seed)
    return {
        unit: {
            entry: bf16_exact(rng.normal(size=spec.entry_shape(entry)).astype(np.float32)).astype(np.float16)
            for entry in spec.entries
        }
        for unit in spec.units
    }


def write_all(root: str | Path, group: str, spec: DescriptorSpec, **options: object) -> dict[tuple[int, int], Arrays]:
    values = make_values(spec)
    writer = create_group(root, group, spec, **options)
    for unit in writer.missing():
        writer.write(*unit, values[unit])
    writer.finish()
    return values


def content_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def shards_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("c.*.*.*.*") if path.is_file() or path.is_dir())


def read_everything(root: Path) -> None:
    store = open_store(root)
    for group in store.groups():
        store.dataset(group).load()
    store.sel(clip="clip", step=3, layer=0, kind="query")


@pytest.fixture(params=["disk", "url"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    if request.param == "disk":
        yield tmp_path / "store"
        return
    fsspec = pytest.importorskip("fsspec")
    name = f"memory://{uuid.uuid4().hex}/store"
    yield name
    fsspec.filesystem("memory").rm(name.removeprefix("memory:/").rsplit("/", 1)[0], recursive=True)


# The contract


class TestLaws(StoreLaws):
    """The laws of `difftrack.testing`, in every layout, in a folder and at a URL."""

    @pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
    def params(self, request: pytest.FixtureRequest) -> StoreParams:
        params: StoreParams = request.param
        self.tolerance = 0.51 / 127 if params.dtype == "int8" else 0.0
        return params

    @pytest.fixture
    def root(self, root: str | Path) -> str | Path:
        return root


@pytest.mark.parametrize("params", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_numbers_come_back_rounded_to_the_dtype_in_which_they_are_stored(tmp_path: Path, params: StoreParams) -> None:
    spec = tiny_spec()
    values = write_all(tmp_path, "clip", spec, params=params)
    store = open_store(tmp_path)
    for (step, layer), arrays in values.items():
        for kind, written in arrays.items():
            read = store.sel(clip="clip", step=step, layer=layer, kind=kind)
            assert read.dtype == encoding_of(params.dtype).read_as
            if params.dtype == "int8":
                peak = np.abs(written.astype(np.float32)).max(axis=-1, keepdims=True)
                assert np.all(np.abs(read - written) <= peak / 127 * 0.51)
            else:
                np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize("params", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_labelled_dataset_agrees_with_sel_under_any_indexing(tmp_path: Path, params: StoreParams) -> None:
    write_all(tmp_path, "clip", make_spec(), params=params)
    store = open_store(tmp_path)
    dataset = store.dataset("clip")
    whole = np.stack([store.sel(clip="clip", step=49, layer=layer, kind="query") for layer in (0, 4, 7)])
    query = dataset["query"]
    assert query.dims == ("step", "layer", "head", "latent_frame", "row", "col", "channel")
    np.testing.assert_array_equal(query.sel(step=49), whole)
    np.testing.assert_array_equal(query.sel(step=49, layer=[7, 0], head=9), whole[[2, 0], 4])
    np.testing.assert_array_equal(
        query.sel(step=49, layer=4).isel(latent_frame=-1, row=slice(9, 2, -3)), whole[1, :, -1, 9:2:-3]
    )
    points = query.isel(step=1, row=xr.DataArray([1, 10, 3], dims="point"), col=xr.DataArray([12, 0, 5], dims="point"))
    np.testing.assert_array_equal(points.isel(layer=2, head=0), whole[2, 0][:, [1, 10, 3], [12, 0, 5]])
    assert query.isel(layer=slice(0, 0)).values.shape == (2, 0, 5, 7, 11, 13, 17)
    by_frame = dataset.set_xindex("frame")
    np.testing.assert_array_equal(by_frame["query"].sel(step=49, frame=12), whole[:, :, 3])
    assert dataset["timestep"].sel(step=3) == 961.5
    assert int(dataset["text_mask"].sum()) == 12


def test_plain_xarray_opens_the_group_with_its_labels(tmp_path: Path) -> None:
    values = write_all(tmp_path, "clip", make_spec())
    dataset = xr.open_zarr(tmp_path, group="clip", consolidated=False, chunks=None)
    assert set(dataset.coords) == {"step", "timestep", "layer", "head", "latent_frame", "frame"}
    stored = dataset["key"].sel(step=3, layer=7, head=9)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, values[3, 7]["key"][4])
    np.testing.assert_array_equal(dataset["frame"].sel(latent_frame=[1, 6]), [4, 24])


def test_chunks_of_a_clip_are_nested_groups(root: str | Path) -> None:
    values = write_all(root, clip_group("clip", 2), make_spec(frames=(0, 40, 41, 42, 43, 44, 45)))
    store = open_store(root)
    assert store.groups() == ["clip/chunk_002"]
    with pytest.raises(StoreError, match=r"clip is a clip in a tracking view.*; choose one with --chunk 2$"):
        store.spec("clip")
    read = store.sel(clip="clip", chunk=2, step=3, layer=0, kind="query")
    np.testing.assert_array_equal(read, values[3, 0]["query"])
    with pytest.raises(StoreError, match="group of groups"):
        create_group(root, "clip", make_spec())


def test_the_same_values_give_the_same_bytes_in_any_order_and_from_any_writer(tmp_path: Path) -> None:
    spec, values = make_spec(), make_values(make_spec())
    write_all(tmp_path / "a", "clip", spec)
    create_group(tmp_path / "b", "clip", spec)
    writers = [open_writer(tmp_path / "b", "clip") for _ in range(2)]
    for writer, unit in zip(itertools.cycle(writers), reversed(spec.units), strict=False):
        writer.write(*unit, values[unit])
    writers[0].finish()
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")


@pytest.mark.parametrize(
    "params",
    [
        *LAYOUTS.values(),
        StoreParams(dtype="int8", codec="blosc-lz4", level=5, chunk_bytes=FRAME_BYTES // 2 + 1),
        StoreParams(dtype="bfloat16", level=0, chunk_bytes=FRAME_BYTES + 1),
    ],
    ids=[*LAYOUTS, "int8 with lz4, the last chunk half empty", "bfloat16 shuffled only, likewise"],
)
def test_shards_are_what_zarr_itself_would_write(params: StoreParams) -> None:
    generator = np.random.default_rng(5)
    for layout in array_layouts(make_spec(), params):
        bits = generator.integers(0, 2**7 if layout.dtype == "int8" else 2**14, layout.shape)
        numbers = bits.astype(np.uint16).view("float16") if layout.dtype == "float16" else bits.astype(layout.dtype)
        written: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(written), zarr_format=3)
        create_array(group, layout, num_units=(1, 1), attributes={})[0, 0] = numbers
        assert b"".join(encode_shard(layout, numbers)) == written[layout.shard_key(0, 0)].to_bytes(), layout.name


@pytest.mark.parametrize("params", LAYOUTS.values(), ids=LAYOUTS)
def test_small_files_of_groups_alike_are_made_once_and_are_zarrs_own(params: StoreParams) -> None:
    specs = [make_spec(), make_spec(fingerprint_parts={"clip": "another"}), make_spec(timesteps=(961.5, 21.0))]
    _files_without_attributes.cache_clear()
    for spec in specs:
        schema, num_units = GroupSchema(spec, params), (len(spec.steps), len(spec.layers))
        found = group_files(schema)
        attributes = {"fingerprint": schema.fingerprint, "stored_as": params.dtype}
        written: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(written), zarr_format=3)
        for layout in schema.layouts.values():
            create_array(group, layout, num_units=num_units, attributes=attributes)
            assert found[f"{layout.name}/zarr.json"] == written[f"{layout.name}/zarr.json"].to_bytes()
        assert np.frombuffer(found["timestep/c.0"][:16]).tolist() == list(spec.timesteps)
    assert _files_without_attributes.cache_info().hits == 1


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    spec = make_spec(num_channels=257, steps=(3,), timesteps=(1.0,), layers=(0,), kinds=("query",), text_mask=())
    params = StoreParams(chunk_bytes=1 << 30)
    before = numcodecs.blosc.set_nthreads(1)
    try:
        write_all(tmp_path / "1", "clip", spec, params=params)
        numcodecs.blosc.set_nthreads(4)
        write_all(tmp_path / "4", "clip", spec, params=params)
    finally:
        numcodecs.blosc.set_nthreads(before)
    assert content_of(tmp_path / "1") == content_of(tmp_path / "4")


# Values


def test_float16_refuses_what_it_cannot_hold_and_bfloat16_takes_it(tmp_path: Path) -> None:
    spec = tiny_spec(kinds=("query",), text_mask=(), layers=(0,))
    values = np.full(spec.entry_shape("query"), 70000.0, np.float32)
    writer = create_group(tmp_path / "half", "clip", spec)
    with pytest.raises(StoreError, match=r"step 3, layer 0: query: the value 70000 .* 65504; store as bfloat16"):
        writer.write(3, 0, {"query": values})
    assert writer.missing() == [(3, 0)]
    writer = create_group(tmp_path / "brain", "clip", spec, params=StoreParams(dtype="bfloat16"))
    writer.write(3, 0, {"query": values})
    writer.finish()
    read = open_store(tmp_path / "brain").sel(clip="clip", step=3, layer=0, kind="query")
    np.testing.assert_array_equal(read, bf16_exact(values))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(dtype: str, bad: float, given: type) -> None:
    values = np.ones((2, 3, 5), given)
    values[1, 2, 0] = bad
    with pytest.raises(ValueError, match="1 of 30 values are not finite"):
        encoding_of(dtype).encode(values)  # type: ignore[arg-type]


def test_bfloat16_rounds_to_nearest_even_like_torch() -> None:
    values = np.asarray([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20), 0.0, -0.0, 1e-40, 3.3e38]], np.float32)
    bits, _ = encoding_of("bfloat16").encode(values)
    np.testing.assert_array_equal(bits, torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy())
    np.testing.assert_array_equal(encoding_of("bfloat16").decode(bits, None)[0, 1:4], [1.0, 1.015625, -1.0078125])


def test_bits_of_bfloat16_are_taken_as_they_are(tmp_path: Path) -> None:
    bits = torch.tensor([[1e30, -2.5, 0.0]], dtype=torch.bfloat16).view(torch.uint16).numpy()
    codes, _ = encoding_of("bfloat16").encode(bits)
    np.testing.assert_array_equal(codes, bits)
    small = torch.tensor([[1.5, -2.5, 0.0]], dtype=torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(encoding_of("float16").encode(small)[0], [[1.5, -2.5, 0.0]])
    with pytest.raises(ValueError, match="not finite"):
        encoding_of("bfloat16").encode(np.asarray([[0x7F80]], np.uint16))


def test_int8_by_hand() -> None:
    codes, scale = encoding_of("int8").encode(np.asarray([[127.0, -64.0, 0.4], [0.0, 0.0, 0.0], [254.0, 2.9, -254.0]]))
    assert scale is not None
    np.testing.assert_array_equal(codes, [[127, -64, 0], [0, 0, 0], [127, 1, -127]])
    np.testing.assert_array_equal(scale, [1, 0, 2])
    tiny, scale = encoding_of("int8").encode(np.asarray([[1e-9, 0.0]]))
    assert scale is not None
    assert scale[0] > 0
    assert tiny[0, 1] == 0
    with pytest.raises(ValueError, match="exceeds the largest value of int8"):
        encoding_of("int8").encode(np.asarray([[1e7, 0.0]]))


def test_rounding_to_bfloat16_makes_smaller_files_and_changes_little(tmp_path: Path) -> None:
    spec = make_spec(steps=(3,), timesteps=(1.0,), layers=(0,), kinds=("query",), text_mask=())
    values = np.random.default_rng(0).normal(size=spec.entry_shape("query")).astype(np.float32)
    sizes = {}
    for rounded in (False, True):
        place = tmp_path / str(rounded)
        writer = create_group(place, "clip", spec, params=StoreParams(round_to_bf16=rounded))
        writer.write(3, 0, {"query": values})
        writer.finish()
        sizes[rounded] = sum(len(content) for content in content_of(place).values())
        read = open_store(place).sel(clip="clip", step=3, layer=0, kind="query")
        np.testing.assert_allclose(read, values, rtol=2**-8 if rounded else 2**-11, atol=1e-6)
    assert sizes[True] < 0.85 * sizes[False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("key"), "got query, text_key; expected query, key, text_key"),
        (lambda arrays: arrays.update(feature=arrays["key"]), "got feature, key"),
        (
            lambda arrays: arrays.update(key=arrays["key"].swapaxes(2, 3)),
            r"key has shape \[2, 2, 5, 3, 7\]; expected \[2, 2, 3, 5, 7\]",
        ),
        (lambda arrays: arrays.update(key=arrays["key"].astype(np.int32)), "key is int32; it must be float16"),
    ],
)
def test_a_unit_of_the_wrong_make_is_refused(tmp_path: Path, change: Callable[[Arrays], object], message: str) -> None:
    spec = tiny_spec()
    writer = create_group(tmp_path, "clip", spec)
    arrays = make_values(spec)[3, 0]
    change(arrays)
    before = content_of(tmp_path)
    with pytest.raises(StoreError, match=message):
        writer.write(3, 0, arrays)
    assert content_of(tmp_path) == before
    with pytest.raises(StoreError, match="no layer 5; there are 0, 4, 7"):
        writer.write(3, 5, make_values(spec)[3, 0])


# Requests for what is not there


def test_the_message_names_what_there_is(tmp_path: Path) -> None:
    write_all(tmp_path, "camel", tiny_spec())
    store = open_store(tmp_path)
    asked = {"clip": "camel", "step": 3, "layer": 7, "kind": "query"}
    for wrong, message in [
        ({"clip": "dog"}, "dog does not exist; the store contains camel"),
        ({"chunk": 0}, "chunk_000 does not exist; the store contains camel"),
        ({"step": 4}, "no step 4; there are 3"),
        ({"layer": 8}, "no layer 8; there are 0, 4, 7"),
        ({"kind": "feature"}, "no entry 'feature'; there are query, key, text_key"),
        ({"head": 2}, "no head 2; there are 0, 1"),
        ({"latent_frame": 2}, "no latent_frame 2"),
        ({"latent_frame": 0, "kind": "text_key"}, "no latent_frame 0 of text_key"),
    ]:
        with pytest.raises(StoreError, match=message):
            store.sel(**{**asked, **wrong})
    with pytest.raises(StoreError, match="does not exist or is empty"):
        open_store(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["", "/clip", "a//b", "../clip", "a/.hidden", "x.partial", "a\\b", "__x"])
def test_names_that_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is not a valid name of a group"):
        create_group(tmp_path, name, tiny_spec())
    write_all(tmp_path, "clip", tiny_spec())
    with pytest.raises(StoreError, match="is not a valid name of a group"):
        open_store(tmp_path).spec(name)


def test_a_spec_that_contradicts_itself_is_refused() -> None:
    for change, message in [
        ({"layers": (1, 1)}, "layers repeats a label"),
        ({"steps": ()}, "steps is empty"),
        ({"timesteps": (1.0,)}, "1 timesteps for 2 steps"),
        ({"frames": (0,)}, "1 frames for 7 latent frames"),
        ({"size": (88, 105)}, r"size is \(88, 105\); the grid covers \(88, 104\)"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"fingerprint_parts": {"a": {1, 2}}}, "not JSON"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_spec(**change)


# Resuming


def test_a_run_that_stopped_is_taken_up_where_it_stopped(root: str | Path) -> None:
    spec, values = make_spec(), make_values(make_spec())
    writer = create_group(root, "clip", spec)
    writer.write(3, 4, values[3, 4])
    with pytest.raises(StoreError, match="is incomplete"):
        open_store(root).sel(clip="clip", step=3, layer=4, kind="query")
    with pytest.raises(StoreError, match=r"\(step 3, layer 0\).* not written"):
        writer.finish()
    again = create_group(root, "clip", spec)
    assert again.missing() == [unit for unit in spec.units if unit != (3, 4)]
    write_all(root, "clip", spec)
    np.testing.assert_array_equal(
        open_store(root).sel(clip="clip", step=3, layer=4, kind="query"), values[3, 4]["query"]
    )


def test_a_finished_group_is_left_untouched(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    write_all(tmp_path, "clip", tiny_spec())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_group_of_other_parameters_is_refused_and_kept(root: str | Path) -> None:
    write_all(root, "clip", tiny_spec())
    with pytest.raises(StoreError, match=r'fingerprint_parts\.backbone is "abc", not "xyz"'):
        create_group(root, "clip", tiny_spec(fingerprint_parts={"backbone": "xyz", "clip": "def"}))
    with pytest.raises(StoreError, match=r"spec.layers is \[0, 4, 7\], not \[0, 4\]"):
        create_group(root, "clip", tiny_spec(layers=(0, 4)))
    with pytest.raises(StoreError, match=r'params\.dtype is "float16", not "int8"'):
        create_group(root, "clip", tiny_spec(), params=StoreParams(dtype="int8"))
    assert open_store(root).spec("clip") == tiny_spec()
    write_all(root, "clip", tiny_spec(layers=(0, 4)), replace=True)
    assert open_store(root).spec("clip").layers == (0, 4)
    assert [check.problem for check in open_store(root).verify() if check.problem] == []


def test_groups_do_not_disturb_each_other(tmp_path: Path) -> None:
    write_all(tmp_path, "a", tiny_spec())
    before = content_of(tmp_path)
    write_all(tmp_path, "b", tiny_spec(layers=(1,)))
    after = content_of(tmp_path)
    assert {name: after[name] for name in before} == before
    assert open_store(tmp_path).groups() == ["a", "b"]


def test_leftovers_of_killed_writers_are_removed_but_not_what_may_still_be_written(tmp_path: Path) -> None:
    spec, values = tiny_spec(), make_values(tiny_spec())
    writer = create_group(tmp_path, "clip", spec)
    for unit in spec.units:
        writer.write(*unit, values[unit])
    clean = content_of(tmp_path / "clip")
    shard = shards_of(tmp_path / "clip")[0]
    old, new = shard.parent / "0.old.partial", shard.parent / "0.new.partial"
    for partial in (old, new):
        partial.write_bytes(b"half")
    os.utime(old, (0, 0))
    writer = create_group(tmp_path, "clip", spec)
    assert (old.exists(), new.exists()) == (False, True)
    writer.finish()
    assert content_of(tmp_path / "clip").keys() == clean.keys()


# Damage


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def add_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip_bit_at(fraction: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(fraction * len(content)), len(content) - 1)] ^= 4
        path.write_bytes(bytes(content))

    return flip


def zero_a_stretch(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle, width = len(content) // 2, max(1, len(content) // 8)
    content[middle : middle + width] = bytes(b ^ 255 for b in content[middle : middle + width][:1]) + bytes(width - 1)
    path.write_bytes(bytes(content))


DAMAGES = {
    "deleted": delete,
    "emptied": empty,
    "one byte short": cut_one_byte,
    "half": cut_half,
    "one byte long": add_one_byte,
    "bit flipped at the start": flip_bit_at(0),
    "bit flipped at a third": flip_bit_at(1 / 3),
    "bit flipped near the end": flip_bit_at(0.9),
    "bit flipped in the last byte": flip_bit_at(1),
    "zeroed": zero_a_stretch,
}


def check_damage_is_found_and_mended(root: Path, path: Path, damage: Callable[[Path], None]) -> None:
    spec, values = tiny_spec(), make_values(tiny_spec())
    sound = content_of(root)
    damage(path)
    with pytest.raises(StoreError, match=r"clip|store|zarr\.json"):
        read_everything(root)
    found = [check.path for check in open_store(root).verify() if check.problem] if content_of(root) else []
    assert found == [str(path)]
    writer = create_group(root, "clip", spec)
    redone = writer.missing()
    assert len(redone) <= 1
    for unit in redone:
        writer.write(*unit, values[unit])
    writer.finish()
    assert content_of(root) == sound


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize(
    "name",
    ["zarr.json", "clip/zarr.json", "clip/key/zarr.json", "clip/layer/c.0", "clip/query/c.0.1.0.0.0.0.0"],
)
def test_damage_raises_is_found_and_mended(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    check_damage_is_found_and_mended(tmp_path, tmp_path / name, damage)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.long) for turn in range(1, len(DAMAGES)))])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_damage_to_any_file_raises_is_found_and_mended(tmp_path: Path, dtype: str, turn: int) -> None:
    """Every file is damaged in one way each turn; all turns together damage every file in every way."""
    spec, values, params = tiny_spec(), make_values(tiny_spec()), StoreParams(dtype=dtype)  # type: ignore[arg-type]
    write_all(tmp_path, "clip", spec, params=params)
    sound, ways = content_of(tmp_path), list(DAMAGES.values())
    assert len(sound) >= len(ways)
    for index, name in enumerate(sound):
        ways[(index + turn) % len(ways)](tmp_path / name)
        with pytest.raises(StoreError):
            read_everything(tmp_path)
        assert [check.path for check in open_store(tmp_path).verify() if check.problem] == [str(tmp_path / name)]
        writer = create_group(tmp_path, "clip", spec, params=params)
        redone = writer.missing()
        assert len(redone) <= 1
        for unit in redone:
            writer.write(*unit, values[unit])
        writer.finish()
        assert content_of(tmp_path) == sound


@pytest.mark.parametrize("num_threads", [1, 2, 3, 11])
def test_a_large_unit_is_read_by_several_threads_to_the_same_values(
    root: str | Path, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(kinds=("query",), text_mask=())
    values = write_all(root, "clip", spec, params=StoreParams(chunk_bytes=2 * FRAME_BYTES))  # 7 frames: 2, 2, 2, 1
    monkeypatch.setattr("difftrack.store._shards._THREADED_BYTES", 1)
    monkeypatch.setattr("difftrack.store._shards._num_threads", lambda: num_threads)
    read = open_store(root).sel(clip="clip", step=3, layer=0, kind="query")
    np.testing.assert_array_equal(read, values[3, 0]["query"])


@pytest.mark.parametrize("place", [0.1, 0.4, 0.9])
def test_a_damaged_chunk_is_named_whichever_thread_finds_it(
    tmp_path: Path, place: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, "clip", make_spec(kinds=("query",), text_mask=()), params=StoreParams(chunk_bytes=1))
    shard = tmp_path / "clip/query/c.0.0.0.0.0.0.0"
    flip_bit_at(place)(shard)
    monkeypatch.setattr("difftrack.store._shards._THREADED_BYTES", 1)
    monkeypatch.setattr("difftrack.store._shards._num_threads", lambda: 3)
    with pytest.raises(StoreError, match=f"{shard} is damaged: a checksum does not match"):
        open_store(tmp_path).sel(clip="clip", step=3, layer=0, kind="query")


def test_a_damaged_chunk_does_not_keep_another_from_being_read(tmp_path: Path) -> None:
    spec = make_spec(kinds=("query",), text_mask=())
    values = write_all(tmp_path, "clip", spec, params=StoreParams(chunk_bytes=1))
    shard = tmp_path / "clip/query/c.0.0.0.0.0.0.0"
    flip_bit_at(0.01)(shard)
    store = open_store(tmp_path)
    asked = {"clip": "clip", "step": 3, "layer": 0, "kind": "query"}
    readable = []
    for frame in range(7):
        try:
            read = store.sel(**asked, latent_frame=frame)
        except StoreError:
            continue
        np.testing.assert_array_equal(read, values[3, 0]["query"][:, frame])
        readable.append(frame)
    assert len(readable) == 6
    with pytest.raises(StoreError, match=f"{shard} is damaged: a checksum does not match"):
        store.sel(**asked)
    with pytest.raises(StoreError, match="is damaged"):
        store.dataset("clip")["query"].sel(step=3, layer=0).load()


def test_a_lost_header_is_restored_only_for_the_group_that_it_was(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    (tmp_path / "clip/zarr.json").unlink()
    before = content_of(tmp_path)
    with pytest.raises(StoreError, match="contains data of unknown origin"):
        create_group(tmp_path, "clip", tiny_spec(fingerprint_parts={"backbone": "xyz"}))
    assert content_of(tmp_path) == before
    assert create_group(tmp_path, "clip", tiny_spec()).missing() == []


def test_a_store_of_nested_folders_is_read_and_taken_up_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("difftrack.store._writer._version_of_arrays", lambda *_: 1)
        values = write_all(tmp_path, "clip", tiny_spec())
    sound = content_of(tmp_path)
    assert "clip/query/c/0/1/0/0/0/0/0" in sound
    read = open_store(tmp_path).sel(clip="clip", step=3, layer=4, kind="query")
    np.testing.assert_array_equal(read, values[3, 4]["query"])
    assert [check for check in open_store(tmp_path).verify() if check.problem] == []
    (tmp_path / "clip/zarr.json").unlink()
    (tmp_path / "clip/query/c/0/1/0/0/0/0/0").unlink()
    write_all(tmp_path, "clip", tiny_spec())
    assert content_of(tmp_path) == sound
    create_group(tmp_path, "clip", tiny_spec(fingerprint_parts={"backbone": "xyz"}), replace=True)
    assert not list(tmp_path.rglob("c"))


def test_a_changed_header_is_not_believed(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    path = tmp_path / "clip/zarr.json"
    path.write_text(path.read_text().replace("961.5", "961.0"))
    with pytest.raises(StoreError, match="does not match its own checksum"):
        open_store(tmp_path).spec("clip")
    document = json.loads(path.read_text())
    document["attributes"]["difftrack"]["version"] = 99
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="schema version 99; this program reads 1 and 2"):
        open_store(tmp_path).spec("clip")


def test_structural_checks_miss_nothing_but_changed_bytes_inside_chunks(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    writer = open_writer(tmp_path, "clip")
    shard = tmp_path / "clip/query/c.0.1.0.0.0.0.0"
    sound = shard.read_bytes()
    caught = {}
    for name, damage in DAMAGES.items():
        damage(shard)
        caught[name] = writer.missing(checksums=False) == [(3, 4)]
        assert writer.missing() == [(3, 4)]
        shard.write_bytes(sound)
    assert all(caught[name] for name in ("deleted", "emptied", "one byte short", "half", "one byte long"))
    assert caught["bit flipped in the last byte"]


# Sizes


def test_planned_bytes_by_hand_and_as_an_upper_bound(tmp_path: Path) -> None:
    spec = tiny_spec(kinds=("query",), text_mask=(), layers=(0,))
    assert planned_bytes(spec) == 2 * 2 * 3 * 5 * 7 * 2 + 20 + 4
    assert planned_bytes(spec, StoreParams(dtype="int8")) == 2 * 2 * 3 * 5 * 7 + 2 * 2 * 3 * 5 * 2 + 2 * 24
    write_all(tmp_path, "clip", make_spec())
    written = sum(len(content) for name, content in content_of(tmp_path).items() if "/c." in name)
    assert 0.5 * planned_bytes(make_spec()) < written < planned_bytes(make_spec())


def test_work_that_would_not_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    check_space(tmp_path / "not/there/yet", 1000, max_bytes=1000)
    with pytest.raises(StoreError, match=r"2 GB planned, extract.max_bytes allows 1 GB; keep fewer extract.layers"):
        check_space(tmp_path, 2_000_000_000, max_bytes=1e9)
    with pytest.raises(StoreError, match=r"1e\+09 GB planned, .* GB free"):
        check_space(tmp_path, 10**18, max_bytes=float("inf"))
    check_space("memory://nowhere", 10**18, max_bytes=float("inf"))


def test_params_that_make_no_sense_are_refused() -> None:
    for change, message in [
        ({"level": 10}, "level is 10; it must lie in 0-9"),
        ({"chunk_bytes": 0}, "chunk_bytes is 0"),
        ({"dtype": "int8", "round_to_bf16": True}, "round_to_bf16 applies only to dtype float16"),
    ]:
        with pytest.raises(ValueError, match=message):
            StoreParams(**change)  # type: ignore[arg-type]


# Results


def make_results() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "points_xy_token": (
                ("layer", "latent_frame", "point", "xy"),
                rng.normal(size=(3, 5, 7, 2)).astype(np.float32),
            ),
            "visible": (("latent_frame", "point"), np.zeros((5, 7), bool)),
            "margin": ("point", np.asarray([0.5, np.nan, 0.25, 1, 2, 3, 4])),
            "nothing": ("none", np.zeros(0, np.float32)),
            "total": ((), 3.5),
        },
        coords={"layer": [0, 4, 7], "kind": ("layer", ["query", "key", "features"]), "xy": ["x", "y"]},
    )


def test_results_are_read_as_written(root: str | Path) -> None:
    write_results(root, "clip", make_results(), {"convention": "corrected", "thresholds": [1, 2]})
    write_results(root, "nested/clip", make_results())
    read = read_results(root, "clip")
    assert read.attrs == {"convention": "corrected", "thresholds": [1, 2]}
    xr.testing.assert_equal(read, make_results())
    assert {name: str(values.dtype) for name, values in read.data_vars.items()} == {
        name: str(values.dtype) for name, values in make_results().data_vars.items()
    }
    assert read.sel(layer=4)["kind"] == "key"
    assert result_groups(root) == ["clip", "nested/clip"]


def test_results_have_the_same_bytes_each_time_and_replace_what_was_there(tmp_path: Path) -> None:
    for place in (tmp_path / "a", tmp_path / "b"):
        write_results(place, "clip", make_results(), {"a": 1})
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_results(tmp_path / "a", "clip", make_results(), {"a": 1})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    write_results(tmp_path / "a", "clip", make_results().drop_vars("margin"))
    assert "margin" not in read_results(tmp_path / "a", "clip")
    assert not (tmp_path / "a/clip/margin").exists()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_results_raise_and_are_found(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_results(tmp_path, "clip", make_results())
    sound = content_of(tmp_path)
    for name in ("zarr.json", "clip/zarr.json", "clip/margin/zarr.json", "clip/margin/c.0"):
        damage(tmp_path / name)
        with pytest.raises(StoreError, match=name.removesuffix("/zarr.json")):
            read_results(tmp_path, "clip")
        assert [check.path for check in open_store(tmp_path).verify() if check.problem] == [str(tmp_path / name)]
        write_results(tmp_path, "clip", make_results())
        assert content_of(tmp_path) == sound


def test_results_never_take_the_place_of_descriptors(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    before = content_of(tmp_path)
    with pytest.raises(StoreError, match="contains descriptors"):
        write_results(tmp_path, "clip", make_results())
    with pytest.raises(StoreError, match="contains descriptors; expected results"):
        read_results(tmp_path, "clip")
    assert content_of(tmp_path) == before
    with pytest.raises(StoreError, match="does not exist or is incomplete; available: none"):
        read_results(tmp_path, "other")


# Other readers


def test_a_torch_dataset_serves_every_unit(tmp_path: Path) -> None:
    values = write_all(tmp_path, "a", make_spec())
    write_all(tmp_path, "b", make_spec())
    dataset = DescriptorDataset(tmp_path, kinds=("query", "text_key"), layers=(7, 0))
    assert len(dataset) == 2 * 2 * 2
    item = pickle.loads(pickle.dumps(dataset))[1]
    assert (item["group"], item["step"], item["layer"]) == ("a", 3, 7)
    assert item["query"].dtype == torch.float16
    np.testing.assert_array_equal(item["query"].numpy(), values[3, 7]["query"])
    loader = torch.utils.data.DataLoader(dataset, batch_size=None)
    assert [(item["group"], item["layer"]) for item in loader] == [
        (g, la) for g in "ab" for _ in (3, 49) for la in (0, 7)
    ]
    with pytest.raises(StoreError, match="group 'a' has no layer 5; there are 0, 4, 7"):
        DescriptorDataset(tmp_path, layers=(5,))


def test_a_store_travels_to_another_process(root: str | Path) -> None:
    write_all(root, "clip", tiny_spec())
    store = open_store(root)
    store.spec("clip")
    assert pickle.loads(pickle.dumps(store)).groups() == ["clip"]
    dataset = pickle.loads(pickle.dumps(store.dataset("clip")))
    assert dataset["query"].sel(step=3, layer=4).values.shape == (2, 2, 3, 5, 7)


def test_a_store_opens_without_torch_and_diffusers(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    program = (
        "import sys; sys.modules.update(torch=None, diffusers=None, transformers=None)\n"
        "from difftrack.store import open_store\n"
        f"store = open_store({str(tmp_path)!r})\n"
        "assert store.sel(clip='clip', step=3, layer=4, kind='query').shape == (2, 2, 3, 5, 7)\n"
        "assert 'zarr' not in sys.modules and 'xarray' not in sys.modules\n"
        "assert store.dataset('clip')['key'].sel(step=3, layer=4).values.any()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80])
def test_a_descriptor_that_is_not_finite_is_refused_by_its_step_and_layer(
    dtype: Any, bits: int, tmp_path: Path
) -> None:
    """The writer refuses such values; a store of another program, which names no checksums, may hold them."""
    from test_store_proof import rewrite

    spec = tiny_spec(layers=(0, 4))
    write_all(tmp_path, "clip", spec, params=StoreParams(dtype=dtype))
    kind = spec.kinds[0]
    array = zarr.open_group(tmp_path / "clip", mode="r+")[kind]
    wrong = (
        np.asarray(bits, np.uint16) if dtype == "bfloat16" else np.asarray(bits | 0x7C00, np.uint16).view(np.float16)
    )
    array[0, 0, 0, 0, 0, 0, 0] = wrong.astype(array.dtype)
    rewrite(tmp_path / "clip/zarr.json", lambda own: own.update(units={}))
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match=rf"clip: {kind} of step 3, layer 0 contains values that are not finite"):
        store.sel(clip="clip", step=3, layer=0, kind=kind)
    store.sel(clip="clip", step=3, layer=4, kind=kind)
