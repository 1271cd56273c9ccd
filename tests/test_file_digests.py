"""Large files are hashed once, and again when anything about them has changed."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from difftrack.backbones import _file_digests
from difftrack.backbones._file_digests import CACHE, file_digest

SIZE = (1 << 20) + 7


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record which files are read; digests are remembered below `tmp_path`."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    found: list[Path] = []
    read = _file_digests._read
    monkeypatch.setattr(_file_digests, "_read", lambda file: (found.append(file), read(file))[1])
    return found


def written(file: Path, content: bytes, *, seconds_ago: float = 60) -> str:
    """Make a file whose times say that it has not been touched for a while; changes of its inode look as old."""
    file.write_bytes(content)
    then = time.time() - seconds_ago
    os.utime(file, (then, then))
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that files were written long ago, because the time at which an inode changed cannot be set."""
    monkeypatch.setattr(_file_digests, "_SETTLED_NS", -(10**12))


@pytest.mark.usefixtures("settled")
def test_a_large_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "weights"
    right = written(file, b"a" * SIZE)
    assert [file_digest(file) for _ in range(3)] == [right] * 3
    assert reads == [file]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["in place, its time put back", "replaced, its time put back", "another size"])
def test_a_changed_file_is_read_again(tmp_path: Path, reads: list[Path], how: str) -> None:
    file = tmp_path / "weights"
    written(file, b"a" * SIZE)
    before = file.stat()
    file_digest(file)
    content = b"b" * (SIZE + ("size" in how))
    if "replaced" in how:
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(file)
    else:
        file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(file) == hashlib.sha256(content).hexdigest()
    assert len(reads) == 2


def test_a_file_that_has_just_been_written_is_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    """The next change of the file could have the same times."""
    file = tmp_path / "weights"
    file.write_bytes(b"a" * SIZE)
    assert file_digest(file) == file_digest(file)
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
def test_small_files_are_read_each_time_and_leave_nothing(tmp_path: Path, reads: list[Path]) -> None:
    right = written(tmp_path / "config.json", b"{}")
    assert [file_digest(tmp_path / "config.json") for _ in range(2)] == [right] * 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', "{"])
def test_a_damaged_memory_is_none(tmp_path: Path, reads: list[Path], content: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights.json").write_text(content)
    file = tmp_path / "weights"
    right = written(file, b"a" * SIZE)
    assert [file_digest(file) for _ in range(2)] == [right] * 2
    assert len(reads) == 1


@pytest.mark.usefixtures("settled")
def test_where_nothing_can_be_remembered_files_are_read(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv(CACHE, str(tmp_path / "a file" / "below"))
    file = tmp_path / "weights"
    right = written(file, b"a" * SIZE)
    assert [file_digest(file) for _ in range(2)] == [right] * 2
    assert len(reads) == 2
