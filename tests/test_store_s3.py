"""The same store behind a URL: a real S3 server on loopback, started here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from difftrack import locks
from difftrack.cli import app
from difftrack.geometry import TokenGrid
from difftrack.store import (
    DescriptorSpec,
    StoreError,
    check_space,
    create_group,
    keep_groups,
    measured_ratio,
    open_store,
    open_writer,
    read_results,
    result_groups,
    stored_bytes,
    stored_groups,
    write_results,
)

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*boto.*:DeprecationWarning")

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
BUCKET = "descriptors"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server that only this test uses."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An empty prefix in a bucket, configured as users do: by environment variables."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = s3fs.S3FileSystem()
    if not bucket.exists(BUCKET):
        bucket.mkdir(BUCKET)
    prefix = f"{BUCKET}/{tmp_path.name}"
    yield f"s3://{prefix}"
    s3fs.S3FileSystem.clear_instance_cache()


def unit(step: int, layer: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([step, layer])
    return {entry: rng.normal(size=SPEC.entry_shape(entry)).astype(np.float16) for entry in SPEC.entries}


def write(root: str | Path, group: str = "clip") -> None:
    writer = create_group(root, group, SPEC)
    for step, layer in writer.missing():
        writer.write(step, layer, unit(step, layer))
    writer.finish()


def files(url: str) -> dict[str, bytes]:
    bucket, prefix = s3fs.S3FileSystem(), url.removeprefix("s3://")
    bucket.invalidate_cache()
    return {path.removeprefix(f"{prefix}/"): bucket.cat(path) for path in bucket.find(prefix)}


def test_a_bucket_holds_the_bytes_that_a_folder_holds(url: str, tmp_path: Path) -> None:
    write(url)
    write(tmp_path / "local")
    local = {str(file.relative_to(tmp_path / "local")): file.read_bytes() for file in (tmp_path / "local").rglob("*")
             if file.is_file()}  # fmt: skip
    assert files(url) == local
    assert stored_bytes(url) == sum(map(len, local.values()))


def test_a_bucket_is_asked_like_a_folder(url: str) -> None:
    write(url, "clip/chunk_000")
    write(url, "clip/chunk_001")
    store = open_store(url)
    assert store.groups() == ["clip/chunk_000", "clip/chunk_001"]
    expected = unit(17, 4)
    assert np.array_equal(store.sel(clip="clip", chunk=1, step=17, layer=4, kind="query"), expected["query"])
    frame = store.sel(clip="clip", chunk=0, step=17, layer=4, kind="key", latent_frame=2, head=1)
    assert np.array_equal(frame, expected["key"][1, 2])
    lazy = store.dataset("clip/chunk_000")["query"].sel(step=17, layer=[4, 7], head=1, latent_frame=2)
    assert np.array_equal(lazy.isel(layer=0).values, expected["query"][1, 2])


def test_every_damage_in_a_bucket_is_found_raises_and_is_mended(url: str) -> None:
    write(url)
    bucket, sound = s3fs.S3FileSystem(), files(url)
    damages = {
        "clip/query/c.1.2.0.0.0.0.0": lambda content: None,
        "clip/key/c.0.1.0.0.0.0.0": lambda content: b"",
        "clip/query/c.0.0.0.0.0.0.0": lambda content: content[:-1],
        "clip/key/c.1.1.0.0.0.0.0": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        "clip/text_mask/c.0": lambda content: None,
        "zarr.json": lambda content: b"{",
    }
    for key, damage in damages.items():
        damaged = damage(sound[key])
        path = f"{url.removeprefix('s3://')}/{key}"
        if damaged is None:
            bucket.rm_file(path)
        else:
            bucket.pipe_file(path, damaged)
    found = {check.path for check in open_store(url).verify() if check.problem}
    assert found == {f"{url}/{key}" for key in damages}
    with pytest.raises(StoreError):
        open_store(url).sel(clip="clip", step=3, layer=0, kind="query")
    assert set(create_group(url, "clip", SPEC).missing()) == {(17, 7), (3, 4), (3, 0), (17, 4)}
    write(url)
    assert files(url) == sound
    assert all(check.problem is None for check in open_store(url).verify())


@pytest.mark.slow
def test_groups_in_a_bucket_are_listed_measured_kept_and_removed(url: str) -> None:
    for group in ("first", "second", "third"):
        write(url, group)
    assert [group.name for group in stored_groups(url)] == ["first", "second", "third"]
    params = open_store(url).params("first")
    assert 0.8 < (measured_ratio(url, params) or 0) < 3
    keep_groups(url, ["second"])
    assert open_store(url).groups() == ["second"]
    assert {file.split("/")[0] for file in files(url)} == {"second", "zarr.json"}
    check_space(url, 10**18, max_bytes=1e19)  # a bucket has no end


@pytest.mark.slow
def test_writers_that_share_a_group_in_a_bucket(url: str) -> None:
    create_group(url, "clip", SPEC)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_store_s3 import *\n"
        "writer = open_writer(sys.argv[2], 'clip')\n"
        "for step, layer in SPEC.units[int(sys.argv[3])::2]: writer.write(step, layer, unit(step, layer))"
    )
    parts = [
        subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), url, str(part)]) for part in (0, 1)
    ]
    assert [part.wait(120) for part in parts] == [0, 0]
    open_writer(url, "clip").finish()
    assert all(check.problem is None for check in open_store(url).verify())


def test_a_group_in_a_bucket_has_one_writer_whose_lock_is_put_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_store_s3 import *\n"
        "writer = create_group(sys.argv[2], 'clip', SPEC); print('held', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=rf"{url}/clip is being written by process {first.pid} on "):
            create_group(url, "clip", SPEC)
        first.kill()
    with pytest.raises(StoreError, match="is being written by"):
        create_group(url, "clip", SPEC)  # a process elsewhere may be slow, so it has a minute
    monkeypatch.setattr(locks, "LEASE_S", 0.1)
    said: list[str] = []
    create_group(url, "clip", SPEC, wait_s=30.0, say=said.append).close()
    assert f"recovered the lock of process {first.pid} on " in said[-1]
    assert not [key for key in files(url) if key.startswith(".locks")]


def test_results_lie_in_a_bucket_too(url: str) -> None:
    import xarray as xr

    dataset = xr.Dataset({"score": (("step", "layer"), np.arange(6.0).reshape(2, 3))}, coords={"step": [3, 17]})
    write_results(url, "clip", dataset, {"made": "here"})
    assert result_groups(url) == ["clip"]
    xr.testing.assert_equal(read_results(url, "clip"), dataset)


def test_verify_and_info_take_a_url(url: str) -> None:
    write(url)
    sound = CliRunner().invoke(app, ["verify", url])
    assert (sound.exit_code, sound.stdout) == (0, f"{url}: {len(files(url))} files checked, 0 damaged\n")
    told = CliRunner().invoke(app, ["info", url])
    assert "1 group," in told.stdout
    assert "MB on disk" in told.stdout
    s3fs.S3FileSystem().rm_file(f"{url.removeprefix('s3://')}/clip/query/c.1.2.0.0.0.0.0")
    damaged = CliRunner().invoke(app, ["verify", url])
    assert damaged.exit_code == 1
    assert f"{url}/clip/query/c.1.2.0.0.0.0.0 is missing" in damaged.stdout
    nothing = CliRunner().invoke(app, ["verify", f"{url}/nothing"])
    assert nothing.exit_code == 1
    assert len(nothing.stderr.splitlines()) == 1


def test_a_url_that_went_through_path_is_still_one(url: str, tmp_path: Path) -> None:
    write(Path(url))
    assert open_store(url).groups() == ["clip"]
    assert open_store(Path(url)).groups() == ["clip"]


def test_a_bucket_that_does_not_exist_is_an_error(url: str) -> None:
    with pytest.raises((StoreError, OSError)):
        open_store("s3://no-such-bucket/store")
