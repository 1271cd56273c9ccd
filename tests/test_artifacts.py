"""Damaged or missing files between stages are refused in one line that names the file and the way out."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from difftrack.artifacts import ArtifactError, Manifest, read_arrays, read_json, write_text
from difftrack.store import StoreError, read_manifest, write_manifest
from difftrack.tracking import no_motion, read_predictions, write_predictions

WAY_OUT = "run the stage again"


def arrays(path: Path) -> Path:
    np.savez_compressed(path, a=np.arange(1009), b=np.eye(31))
    return path


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(7))


def with_member(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.npy", content)

    return make


def scrambled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(bytes(content))


HUGE = (
    b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(127)
    + b"\n"
)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(path.read_bytes()[:30]),
        lambda path: path.write_text("hello"),
        npy,
        scrambled,
        with_member(b""),
        with_member(b"\x93NUMPY\x01\x00"),
        with_member(HUGE),
        Path.unlink,
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_arrays_that_cannot_be_read_are_one_line(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    damage(arrays(tmp_path / "a.npz"))
    with pytest.raises(ArtifactError, match=r"^.*a\.npz: [^\n]*; run the stage again$"):
        read_arrays(tmp_path / "a.npz", way_out=WAY_OUT)


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    found = read_arrays(arrays(tmp_path / "a.npz"), way_out=WAY_OUT)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], np.arange(1009))


def test_arrays_that_want_to_be_unpickled_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ArtifactError, match=r"a\.npz: .*run the stage again$"):
        read_arrays(tmp_path / "a.npz", way_out=WAY_OUT)


@pytest.mark.parametrize("content", [b"", b" \n", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"hello"])
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"^.*a\.json: [^\n]*; run the stage again$"):
        read_json(tmp_path / "a.json", way_out=WAY_OUT)
    with pytest.raises(ArtifactError, match=r"b\.json: the file does not exist; run the stage again$"):
        read_json(tmp_path / "b.json", way_out=WAY_OUT)


def test_a_text_that_stays_the_same_is_not_written_again_and_leaves_no_part(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.json", "1")
    before = (tmp_path / "deep" / "a.json").stat()
    write_text(tmp_path / "deep" / "a.json", "1")
    after = (tmp_path / "deep" / "a.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    write_text(tmp_path / "deep" / "a.json", "2")
    assert [(path.name, path.read_text()) for path in (tmp_path / "deep").iterdir()] == [("a.json", "2")]


def test_a_manifest_keeps_order_groups_and_what_a_rule_leaves_out() -> None:
    manifest = Manifest({"b": ("b/chunk_000", "b/chunk_001"), "a": ()}, {"c": "too short"})
    text = manifest.to_text()
    assert Manifest.from_bytes(text.encode(), "m") == manifest
    assert Manifest.from_bytes(text.encode(), "m").to_text() == text
    assert manifest.clips == ["b", "a"]
    assert manifest.remarks("folder") == ["left out: c: too short"]


@pytest.mark.parametrize("content", ["", "{}", json.dumps({"version": 1, "clips": [{"name": "a"}], "left_out": {}})])
def test_a_damaged_manifest_of_a_store_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(
        StoreError, match=r"manifest\.json: .*; remove it and run the stage that writes the folder again"
    ):
        read_manifest(tmp_path)


def test_a_store_without_manifest_is_taken_for_whole_with_every_folder_in_it(tmp_path: Path) -> None:
    for name in ("a/query", "b/chunk_000/query", "b/chunk_001", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    found = read_manifest(tmp_path)
    assert found.groups == {"a": ("a",), "b": ("b/chunk_000", "b/chunk_001")}
    assert found.assumed
    write_manifest(tmp_path, Manifest(found.groups))
    assert read_manifest(tmp_path) == Manifest(found.groups)
    assert not read_manifest(tmp_path).assumed


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"hello"])
def test_predictions_that_cannot_be_read_are_one_line(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "clip.npz"
    queries = np.zeros((3, 3), dtype=np.float32)
    write_predictions(file, queries, {"tracker": no_motion(queries, num_frames=5)})
    assert list(read_predictions(file)[1]) == ["tracker"]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.npz"]
    file.write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"clip\.npz: .*; run the track stage again$"):
        read_predictions(file)
