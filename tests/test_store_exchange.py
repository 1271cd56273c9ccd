"""A part of a store is exported and imported again: values, labels and checksums stay the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from difftrack.cli import app
from difftrack.geometry import TokenGrid
from difftrack.store import (
    DescriptorSpec,
    StoreError,
    StoreParams,
    create_group,
    export_group,
    import_group,
    open_store,
    read_results,
    write_results,
)

SPEC = DescriptorSpec(
    steps=(3, 20, 49),
    timesteps=(961.5, 500.0, 20.0),
    layers=(0, 7),
    heads=(0, 1, 2, 3, 9),
    num_channels=7,
    grid=TokenGrid(num_latent_frames=2, rows=3, cols=11, stride_px=8, temporal_stride=4),
    frames=(0, 4),
    clip_size=(48, 176),
    size=(24, 88),
    kinds=("query", "key"),
    text_mask=(True, True, False),
    fingerprint_parts={"backbone": "abc", "clip": "camel"},
)
MADE_BY = {"code": {"backbones": "1234"}, "versions": {"torch": "2.13.0"}, "loaded": {}}
FORMATS = ("nc", "zarr", "safetensors")


def write(root: Path, spec: DescriptorSpec = SPEC, *, group: str = "camel", dtype: str = "float16") -> None:
    """One value for each (step, layer, head, kind), whatever else the spec holds."""
    writer = create_group(root, group, spec, params=StoreParams(dtype=dtype), made_by=MADE_BY)
    for step, layer in spec.units:
        values = {}
        for entry in spec.entries:
            number, shape = SPEC.entries.index(entry), (10, *spec.entry_shape(entry)[1:])
            of_heads = np.random.default_rng([step, layer, number]).normal(size=shape).astype(np.float16)
            values[entry] = of_heads[list(spec.heads)]
        writer.write(step, layer, values)
    writer.finish()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write(folder)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# One line of xarray


@pytest.mark.parametrize("part", [{}, {"step": 49, "layer": 7}, {"step": [20], "layer": [7, 0], "head": 9}])
def test_a_dataset_or_a_part_of_it_is_saved_onwards_by_one_line(root: Path, tmp_path: Path, part: dict) -> None:
    dataset = open_store(root).dataset("camel").sel(part)
    dataset.to_netcdf(tmp_path / "a.nc")
    dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
    for again in (xr.load_dataset(tmp_path / "a.nc"), xr.open_zarr(tmp_path / "a.zarr", consolidated=False)):
        assert again["query"].dims == dataset["query"].dims
        xr.testing.assert_equal(again.load(), dataset.load())


@pytest.mark.parametrize("part", [{}, {"step": 49, "layer": 7}])
def test_what_stock_xarray_opens_is_saved_onwards_by_the_line_of_the_docs(
    root: Path, tmp_path: Path, part: dict
) -> None:
    opened = xr.open_zarr(root, group="camel", consolidated=False, chunks=None).sel(part)
    plain = opened.drop_attrs().drop_encoding()
    plain.to_zarr(tmp_path / "a.zarr", consolidated=False)
    plain.astype("float32").to_netcdf(tmp_path / "a.nc")
    for again in (xr.load_dataset(tmp_path / "a.nc"), xr.open_zarr(tmp_path / "a.zarr", consolidated=False)):
        np.testing.assert_array_equal(again["key"].values, opened["key"].values)


@pytest.mark.parametrize("part", [{}, {"step": 49}])
def test_results_are_saved_onwards_by_the_line_of_the_docs(tmp_path: Path, part: dict) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    labels = {"step": [20, 49], "kind": ["query", "key", "feature"]}
    found = xr.Dataset({"share": (("step", "kind"), values)}, coords=labels)
    write_results(tmp_path / "matches", "camel", found, {"matching": {"temperature": 1.0}})
    read = read_results(tmp_path / "matches", "camel").sel(part)
    read.drop_attrs().to_netcdf(tmp_path / "a.nc")
    read.to_zarr(tmp_path / "a.zarr", consolidated=False)
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "a.nc"), read.drop_attrs())
    assert xr.open_zarr(tmp_path / "a.zarr", consolidated=False).load().identical(read)


# Export and import


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_a_whole_group_comes_back_byte_for_byte(tmp_path: Path, suffix: str, dtype: str) -> None:
    write(tmp_path / "mine", dtype=dtype)
    export_group(open_store(tmp_path / "mine"), "camel", tmp_path / f"part.{suffix}")
    assert import_group(tmp_path / f"part.{suffix}", tmp_path / "theirs") == "camel"
    assert content_of(tmp_path / "theirs") == content_of(tmp_path / "mine")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_part_is_the_group_that_an_extraction_of_it_alone_writes(root: Path, tmp_path: Path, suffix: str) -> None:
    narrow = replace(SPEC, steps=(20, 49), timesteps=(500.0, 20.0), layers=(7,), heads=(1, 9), kinds=("key",))
    write(tmp_path / "alone", narrow)
    file = tmp_path / f"part.{suffix}"
    export_group(open_store(root), "camel", file, steps=[49, 20], layers=[7], heads=[9, 1], kinds=["key"])
    import_group(file, tmp_path / "theirs")
    assert content_of(tmp_path / "theirs") == content_of(tmp_path / "alone")


def test_a_chunk_of_a_tracking_view_keeps_its_place(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "tracking", group="camel/chunk_001")
    export_group(open_store(tmp_path / "tracking"), "camel/chunk_001", tmp_path / "part.safetensors")
    assert import_group(tmp_path / "part.safetensors", tmp_path / "theirs") == "camel/chunk_001"
    assert import_group(tmp_path / "part.safetensors", tmp_path / "theirs", group="dog") == "dog"
    read = open_store(tmp_path / "theirs").sel(clip="camel", chunk=1, step=3, layer=0, kind="query")
    np.testing.assert_array_equal(read, open_store(root).sel(clip="camel", step=3, layer=0, kind="query"))


def test_other_programs_read_the_files(root: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    store = open_store(root)
    for suffix in FORMATS:
        export_group(store, "camel", tmp_path / f"part.{suffix}", steps=[49])
    wanted = store.sel(clip="camel", step=49, layer=7, kind="key")
    netcdf = xr.load_dataset(tmp_path / "part.nc")
    np.testing.assert_array_equal(netcdf["key"].sel(step=49, layer=7), wanted)
    assert netcdf["timestep"].sel(step=49) == 20.0
    np.testing.assert_array_equal(load_file(tmp_path / "part.safetensors")["key"][0, 1], wanted)
    stock = xr.open_zarr(tmp_path / "part.zarr", group="camel", consolidated=False)
    np.testing.assert_array_equal(stock["key"].sel(step=49, layer=7), wanted)
    np.testing.assert_array_equal(
        open_store(tmp_path / "part.zarr").sel(clip="camel", step=49, layer=7, kind="key"), wanted
    )


def test_what_is_not_there_and_what_is_there_already_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    store, file = open_store(root), tmp_path / "part.nc"
    for wanted, problem in (
        ({"steps": [4]}, "camel has no step 4; there are 3, 20, 49"),
        ({"layers": [7, 8]}, "camel has no layer 8; there are 0, 7"),
        ({"heads": [4]}, "camel has no head 4"),
        ({"kinds": ["feature"]}, "camel has no kind feature; there are query, key"),
        ({"steps": []}, "steps is empty"),
    ):
        with pytest.raises(StoreError, match=problem):
            export_group(store, "camel", file, **wanted)
    with pytest.raises(StoreError, match=r"has the suffix \.h5; use one of \.nc, \.zarr, \.safetensors"):
        export_group(store, "camel", tmp_path / "part.h5")
    export_group(store, "camel", file)
    with pytest.raises(StoreError, match="already exists; choose another file, or use --force"):
        export_group(store, "camel", file)
    export_group(store, "camel", file, steps=[3], force=True)
    import_group(file, tmp_path / "theirs")
    export_group(store, "camel", file, steps=[49], force=True)
    with pytest.raises(StoreError, match="another"):
        import_group(file, tmp_path / "theirs")
    import_group(file, tmp_path / "theirs", force=True)
    assert open_store(tmp_path / "theirs").spec("camel").steps == (49,)


def test_a_file_that_is_damaged_or_a_strangers_is_refused_on_one_line(root: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    export_group(open_store(root), "camel", good)
    header = json.loads(_metadata(good))
    arrays = load_file(good)

    def refused(metadata: dict[str, str] | None, tensors: dict[str, np.ndarray], problem: str) -> None:
        save_file(tensors, bad, metadata=metadata)
        with pytest.raises(StoreError, match=problem) as error:
            import_group(bad, tmp_path / "theirs")
        assert "\n" not in str(error.value)

    refused(None, arrays, "contains no header of a group")
    refused({"difftrack": "{"}, arrays, "contains a damaged header")
    refused({"difftrack": json.dumps({**header, "version": 2})}, arrays, "has version 2; this program reads version 1")
    whole = {"difftrack": json.dumps(header)}
    refused(whole, {name: values for name, values in arrays.items() if name != "key"}, "key is missing; expected")
    refused(whole, {**arrays, "key": arrays["key"][:, :1].copy()}, r"key is \[3, 1, 5, 2, 3, 11, 7\]; expected")
    refused(
        whole, {**arrays, "key": arrays["key"] * np.float32(np.pi)}, "contains values that float16 cannot represent"
    )
    bad.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(StoreError, match="is not a complete safetensors file"):
        import_group(bad, tmp_path / "theirs")
    (tmp_path / "bad.nc").write_bytes(b"CDF\x02nonsense")
    with pytest.raises(StoreError, match="is not a complete NetCDF"):
        import_group(tmp_path / "bad.nc", tmp_path / "theirs")
    with pytest.raises(StoreError, match="does not exist"):
        import_group(tmp_path / "none.nc", tmp_path / "theirs")


def _metadata(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        return str(opened.metadata()["difftrack"])


# The verbs


def test_export_and_import_are_verbs(root: Path, tmp_path: Path) -> None:
    def run(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(word) for word in words])
        return done.exit_code, done.stdout + done.stderr

    file = tmp_path / "part.safetensors"
    status, said = run("export", root, "--clip", "camel", "--step", 49, "--layer", 7, "--kind", "key", "--to", file)
    assert (status, said.split()[0]) == (0, str(file))
    assert "1 step" in said
    assert "1 layer" in said
    status, said = run("import", file, "--to", tmp_path / "theirs")
    assert status == 0
    assert "camel" in said
    assert open_store(tmp_path / "theirs").spec("camel").kinds == ("key",)
    status, said = run("export", root, "--clip", "camel", "--step", 50, "--to", tmp_path / "other.nc")
    assert (status, said) == (1, "difftrack: camel has no step 50; there are 3, 20, 49\n")
