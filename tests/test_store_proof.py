"""What `verify` accepts reads back as written; what a read refuses, `verify` names; hostile files stop both."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store import make_results, make_values, tiny_spec, write_all
from typer.testing import CliRunner

from difftrack.cli import app
from difftrack.store import (
    StoreError,
    StoreParams,
    create_group,
    keep_groups,
    open_store,
    open_writer,
    read_results,
    remove_group,
    stored_groups,
    write_results,
)
from difftrack.store._group_metadata import Header

pytestmark = pytest.mark.timeout(60)

Values = Mapping[tuple[int, int], Mapping[str, np.ndarray]]

PARAMS = {
    "plain": StoreParams(codec="none"),
    "blosc": StoreParams(),
    "zstd, a chunk per frame": StoreParams(codec="zstd", chunk_bytes=1),
}
GROUPS = {"first": tiny_spec(), "second": tiny_spec(), "wider": tiny_spec(num_channels=11, fingerprint_parts={"a": 1})}


def problems(root: Path) -> list[str]:
    return [check.path for check in open_store(root).verify() if check.problem]


def refused(root: Path, written: Mapping[str, Values]) -> set[str]:
    """Groups that cannot be read in full; every value that is read is compared with what was written."""
    groups = set()
    for group, values in written.items():
        try:
            store = open_store(root)
            for (step, layer), arrays in values.items():
                for kind, expected in arrays.items():
                    read = store.sel(clip=group, step=step, layer=layer, kind=kind)
                    np.testing.assert_array_equal(read, expected)
        except StoreError:
            groups.add(group)
    return groups


def write_groups(root: Path, params: StoreParams) -> dict[str, Values]:
    written: dict[str, Values] = {}
    for seed, (group, spec) in enumerate(GROUPS.items()):
        values = make_values(spec, seed)
        writer = create_group(root, group, spec, params=params)
        for unit in spec.units:
            writer.write(*unit, values[unit])
        writer.finish()
        written[group] = values
    return written


@contextmanager
def restored(root: Path) -> Iterator[None]:
    """Restore a store's files to their present contents."""
    before = {path: path.read_bytes() for path in files_of(root)}
    try:
        yield
    finally:
        for path in {*files_of(root)} - before.keys():
            path.unlink()
        for path, content in before.items():
            if path.is_dir():
                path.rmdir()
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module", params=PARAMS.values(), ids=PARAMS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Values]]:
    root = tmp_path_factory.mktemp("sound") / "store"
    return root, write_groups(root, request.param)


# Both directions


CHANGES = ("swap", "replace", "cut", "flip", "delete", "rename", "extend", "folder")


@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_happens_to_a_file_verify_and_reads_agree(
    sound: tuple[Path, dict[str, Values]], data: st.DataObject
) -> None:
    root, written = sound
    change, files = data.draw(st.sampled_from(CHANGES)), st.sampled_from(files_of(root))
    one, other = data.draw(files), data.draw(files)
    content, others = one.read_bytes(), other.read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    new_name = data.draw(st.sampled_from(["c.9.9.0.0.0.0.0", "notes", "zarr.json"]))
    with restored(root):
        if change == "swap":
            one.write_bytes(others)
            other.write_bytes(content)
        elif change == "replace":
            one.write_bytes(others)
        elif change == "cut":
            one.write_bytes(content[:at])
        elif change == "flip":
            one.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
        elif change == "extend":
            one.write_bytes(content + others)
        elif change == "rename":
            one.replace(one.with_name(new_name))
        else:
            one.unlink()
            if change == "folder":
                one.mkdir()
        assert bool(problems(root)) == bool(refused(root, written)), (change, one, other)


def test_a_unit_in_the_place_of_another_is_named_and_refused(
    sound: tuple[Path, dict[str, Values]], tmp_path: Path
) -> None:
    root = tmp_path / "store"
    shutil.copytree(sound[0], root)
    place = root / "first/query/c.0.1.0.0.0.0.0"
    for source in ("first/query/c.0.0.0.0.0.0.0", "first/key/c.0.1.0.0.0.0.0", "second/query/c.0.1.0.0.0.0.0",
                   "wider/query/c.0.1.0.0.0.0.0"):  # fmt: skip
        place.write_bytes((sound[0] / source).read_bytes())
        assert problems(root) == [str(place)], source
        assert refused(root, sound[1]) == {"first"}, source
        assert open_writer(root, "first").missing() == [(3, 4)], source


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_a_store_of_an_earlier_program_is_read_says_what_is_open_and_is_completed(
    tmp_path: Path, params: StoreParams
) -> None:
    root = tmp_path / "store"
    written = write_groups(root, params)
    new = {path: path.read_bytes() for path in files_of(root)}
    for group in GROUPS:
        path = root / group / "zarr.json"
        header = Header.from_bytes(path.read_bytes())
        path.write_bytes(Header(header.schema, header.contents, header.files, True, header.attributes, 2).to_bytes())
    assert refused(root, written) == set()
    checks = list(open_store(root).verify())
    assert [check for check in checks if check.problem] == []
    assert [check.path for check in checks if check.unproven] == [str(root / name / "zarr.json") for name in GROUPS]
    told = CliRunner().invoke(app, ["verify", str(root)])
    assert told.exit_code == 0
    assert "cannot be detected; run the stage that wrote it again" in told.stdout
    wider = root / "wider/query/c.0.1.0.0.0.0.0"
    (root / "first/query/c.0.1.0.0.0.0.0").write_bytes(wider.read_bytes())  # another size: noticed without checksums
    assert problems(root) == [str(root / "first/query/c.0.1.0.0.0.0.0")]
    assert refused(root, written) == {"first"}
    for (group, values), spec in zip(written.items(), GROUPS.values(), strict=True):
        writer = create_group(root, group, spec, params=params)
        assert writer.missing() == ([(3, 4)] if group == "first" else [])
        for unit in writer.missing():
            writer.write(*unit, values[unit])
        writer.finish()
    assert {path: path.read_bytes() for path in files_of(root)} == new


def test_units_that_other_writers_wrote_are_proven_too(tmp_path: Path) -> None:
    values = make_values(tiny_spec())
    create_group(tmp_path, "clip", tiny_spec()).close()
    for unit in tiny_spec().units:
        open_writer(tmp_path, "clip").write(*unit, values[unit])
    open_writer(tmp_path, "clip").finish()
    header = Header.from_bytes((tmp_path / "clip/zarr.json").read_bytes())
    checksum = (tmp_path / "clip/key/c.0.2.0.0.0.0.0").read_bytes()[-24:-20]  # before an index of 16 bytes and its own
    assert base64.b64decode(header.units["key"])[8:] == checksum


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_what_other_programs_add_is_no_damage(tmp_path: Path) -> None:
    values = write_all(tmp_path, "clip/chunk_000", tiny_spec())
    write_results(tmp_path / "results", "clip", make_results())
    zarr.consolidate_metadata(tmp_path)
    zarr.consolidate_metadata(tmp_path / "clip")
    zarr.consolidate_metadata(tmp_path / "clip/chunk_000")
    zarr.consolidate_metadata(tmp_path / "results")
    for folder in (tmp_path, tmp_path / "clip", tmp_path / "clip/chunk_000/query", tmp_path / "results/clip"):
        for name in (".DS_Store", "._zarr.json", "Thumbs.db"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "__MACOSX/clip").mkdir(parents=True)
    (tmp_path / "__MACOSX/clip/._zarr.json").write_bytes(b"\0")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "notes").mkdir()
    assert [check for check in open_store(tmp_path).verify() if check.problem] == []
    read = open_store(tmp_path).sel(clip="clip", chunk=0, step=3, layer=4, kind="key")
    np.testing.assert_array_equal(read, values[3, 4]["key"])
    assert read_results(tmp_path / "results", "clip").equals(make_results())
    assert create_group(tmp_path, "clip/chunk_000", tiny_spec()).missing() == []


# Hostile headers


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the store's own part of a zarr.json, and give it a correct checksum."""
    document = json.loads(path.read_bytes())
    own = document["attributes"]["difftrack"]
    del own["checksum"]
    change(own)
    from difftrack.store._group_metadata import _checksum

    own["checksum"] = _checksum(own, {k: v for k, v in document["attributes"].items() if k != "difftrack"})
    path.write_text(json.dumps(document))


def grid(**sizes: int) -> Callable[[dict[str, Any]], None]:
    def change(own: dict[str, Any]) -> None:
        spec = own["contents"]["spec"]
        spec["grid"] |= sizes
        spec["size"] = [spec["grid"]["rows"] * 8, spec["grid"]["cols"] * 8]
        own["units"] = {}

    return change


def labels(**axes: list[int]) -> Callable[[dict[str, Any]], None]:
    return lambda own: own["contents"]["spec"].update(axes)


def names(*files: str) -> Callable[[dict[str, Any]], None]:
    return lambda own: own["files"].update(dict.fromkeys(files, "0" * 64))


HOSTILE = {
    "no contents": (lambda own: own.pop("contents"), "header: difftrack.contents is missing"),
    "contents: null": (lambda own: own.update(contents=None), "difftrack.contents is None; expected a mapping"),
    "contents of text": (lambda own: own.update(contents="x" * 10_000), r"difftrack.contents is 'x{199} \.\.\.;"),
    "no spec": (lambda own: own["contents"].pop("spec"), "contents.spec is missing"),
    "spec: a list": (lambda own: own["contents"].update(spec=[1]), r"contents.spec is \[1\]; expected a mapping"),
    "params: null": (lambda own: own["contents"].update(params=None), "contents.params is None"),
    "no fingerprint": (lambda own: own["contents"].pop("fingerprint"), "contents.fingerprint is missing"),
    "files: a list": (lambda own: own.update(files=["a"]), r"difftrack.files is \['a'\]"),
    "complete: yes": (lambda own: own.update(complete="yes"), "difftrack.complete is 'yes'"),
    "schema of another": (lambda own: own.update(schema="models"), "difftrack.schema is 'models'"),
    "a device": (names("/dev/zero"), "lists the file '/dev/zero'; files must lie inside their group"),
    "a way up": (names("query/../../../secret"), "lists the file 'query/../../../secret'"),
    "a million files": (lambda own: own.update(files={f"a{i}": "" for i in range(5000)}), "lists 5002?[0-9]* files"),
    "10^12 tokens": (grid(rows=10**6, cols=10**6), "2000000000000 tokens; at most 67108864 can be stored"),
    "10^12 values": (lambda own: own["contents"]["spec"].update(num_channels=10**12), "values in a unit; at most"),
    "10^8 units": (
        lambda own: own["contents"]["spec"].update(
            steps=list(range(10**4)), timesteps=[0.5] * 10**4, layers=list(range(10**4))
        ),
        "100000000 units; at most 1048576",
    ),
    "negative": (grid(rows=-3), "TokenGrid.rows is -3"),
    "a float": (grid(rows=2.5), "spec.grid.rows is 2.5"),  # type: ignore[arg-type]
    "units of another": (lambda own: own["units"].pop("key"), "has checksums of query, text_key, but contains query"),
    "units cut short": (lambda own: own["units"].update(key="AAAA"), r"checksums of key that are not \[3, 1\] numbers"),
    "units of text": (lambda own: own["units"].update(key="not base 64"), "checksums of key that are not"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_one_line_from_everything_that_reads_it(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    path = tmp_path / "clip/zarr.json"
    rewrite(path, change)
    with pytest.raises(StoreError, match=message) as caught:
        open_store(tmp_path).spec("clip")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(path) in problems(tmp_path)
    assert stored_groups(tmp_path) == []
    with pytest.raises(StoreError, match=message):
        open_writer(tmp_path, "clip")
    told = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert told.exit_code == 1
    assert told.exception is None or isinstance(told.exception, SystemExit)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"attributes":' * 200_000, b"\xff\xfe", b"9" * 10**5, b"null"])
@pytest.mark.parametrize("name", ["zarr.json", "clip/zarr.json"])
def test_json_that_is_deep_or_none_is_damage(tmp_path: Path, name: str, content: bytes) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    (tmp_path / name).write_bytes(content)
    assert problems(tmp_path) == [str(tmp_path / name)]
    with pytest.raises(StoreError, match=r"zarr\.json"):
        open_store(tmp_path).sel(clip="clip", step=3, layer=0, kind="query")
    assert create_group(tmp_path, "clip", tiny_spec()).missing() == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_a_header_is_refused_in_one_line_or_changes_nothing(
    sound: tuple[Path, dict[str, Values]], data: st.DataObject
) -> None:
    root, written = sound

    def change(own: dict[str, Any]) -> None:
        place: Any = own
        while True:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
                place[key] = data.draw(ANYTHING)
                return
            place = place[key]

    with restored(root):
        try:
            rewrite(root / "first/zarr.json", change)
        except ValueError:  # a number that JSON does not have
            return
        found = problems(root)
        assert found or not refused(root, {"first": written["first"]})
        stored_groups(root)


# Files that are not files


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_nothing(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


NO_FILES = {
    "a FIFO": (put_fifo, "is a FIFO; it must be a regular file"),
    "a device": (link_to("/dev/zero"), "is a link to /dev/zero outside the store"),
    "a loop": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "a folder": (Path.mkdir, "is a folder; it must be a regular file|is missing"),
    "an escape": (link_to("/etc/hostname"), "is a link to /etc/hostname outside the store"),
    "a terabyte of nothing": (put_nothing, "damaged|bytes"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and links of Unix")
@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["zarr.json", "clip/zarr.json", "clip/layer/c.0", "clip/query/c.0.1.0.0.0.0.0"])
@pytest.mark.parametrize(("put", "message"), NO_FILES.values(), ids=NO_FILES)
def test_only_regular_files_inside_the_store_are_read(
    tmp_path: Path, name: str, put: Callable[[Path], object], message: str
) -> None:
    values = write_all(tmp_path, "clip", tiny_spec())
    path = tmp_path / name
    path.unlink()
    put(path)
    (found,) = [check for check in open_store(tmp_path).verify() if check.problem]
    assert found.path == str(path)
    assert re.search(message, f"{found.problem}")
    with pytest.raises(StoreError, match=name.replace(".", r"\.")):
        open_store(tmp_path).sel(clip="clip", step=3, layer=4, kind="query")
    if path.is_dir():
        path.rmdir()
    writer = create_group(tmp_path, "clip", tiny_spec())
    for unit in writer.missing():
        writer.write(*unit, values[unit])
    writer.finish()
    assert problems(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="links of Unix")
@pytest.mark.timeout(10)
def test_folders_that_are_links_in_circles_end(tmp_path: Path) -> None:
    values = write_all(tmp_path, "clips/chunk_000", tiny_spec())
    for name in ("a", "b"):
        (tmp_path / "clips" / name).symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / name).symlink_to(tmp_path / "clips", target_is_directory=True)
    assert problems(tmp_path) == []
    assert "clips/chunk_000" in open_store(tmp_path).groups()
    read = open_store(tmp_path).sel(clip="clips", chunk=0, step=3, layer=4, kind="key")
    np.testing.assert_array_equal(read, values[3, 4]["key"])


def test_links_into_a_cache_of_contents_and_folders_elsewhere_are_the_owners_choice(tmp_path: Path) -> None:
    root = tmp_path / "store"
    values = write_all(root, "clip", tiny_spec())
    cached = tmp_path / "cache/files/md5/ab" / ("c" * 30)
    cached.parent.mkdir(parents=True)
    shard = root / "clip/query/c.0.1.0.0.0.0.0"
    shard.rename(cached)
    shard.symlink_to(cached)
    (root / "clip").rename(tmp_path / "elsewhere")
    (root / "clip").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert problems(root) == []
    assert refused(root, {"clip": values}) == set()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from difftrack.store import StoreError, open_store
store = open_store(sys.argv[1])
print([check.problem for check in store.verify() if check.problem])
try:
    store.sel(clip="clip", step=3, layer=0, kind="query")
except StoreError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("codec", ["none", "blosc-zstd", "zstd"])
def test_a_header_that_says_more_than_its_shards_hold_takes_no_memory(tmp_path: Path, codec: str) -> None:
    spec = tiny_spec()
    write_all(tmp_path, "clip", spec, params=StoreParams(codec=codec))  # type: ignore[arg-type]
    rewrite(tmp_path / "clip/zarr.json", grid(rows=2**12, cols=2**12))
    rewrite(tmp_path / "clip/zarr.json", lambda own: own["contents"]["params"].update(chunk_bytes=1 << 40))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "refused" in done.stdout, done.stdout
    assert "damaged: a chunk has" in done.stdout or "more than is free" in done.stdout


def test_removing_leaves_what_is_not_the_stores(tmp_path: Path) -> None:
    write_all(tmp_path, "clip", tiny_spec())
    (tmp_path / ".ipynb_checkpoints").mkdir()
    keep_groups(tmp_path, [])
    assert (tmp_path / ".ipynb_checkpoints").is_dir()
    remove_group(tmp_path / "none", "clip")
