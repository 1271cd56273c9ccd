"""Files under one root, on a local disk or behind an fsspec URL.

Keys are relative paths with forward slashes. A local write goes to a `.partial` file beside its target and is renamed,
so that a reader sees the old file or the new one; an object store's put has the same property by itself.
"""

import os
import re
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from difftrack.documents import DocumentError, open_regular, read_bounded
from difftrack.ownership import is_inside
from difftrack.store._errors import IrregularFileError, StoreError

__all__ = ["Blob", "Files", "StorePath", "open_files"]

StorePath = str | os.PathLike[str]
"""A directory, or a URL that fsspec understands (`s3://bucket/prefix`, `memory://name`)."""

ABANDONED_AFTER_S = 3600.0
"""A `.partial` file this old belongs to no running writer: one is written in seconds."""


MAX_SMALL_BYTES = 4 << 30
"""Most bytes of a file that is read whole: headers, labels, and the arrays of results."""

_CONTENT_ADDRESSED = re.compile(r"/(files/md5/[0-9a-f]{2}/[0-9a-f]{30}|blobs/[0-9a-f]{40,64})$")
"""Where DVC's cache and the Hugging Face cache keep the files that they link to."""


class Blob(ABC):
    """One open file."""

    size: int
    """Bytes."""

    @abstractmethod
    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[UInt8[np.ndarray, " byte"]]:
        """Yield the bytes of each (offset, length); an array is valid until the next one is asked for.

        Several threads may each read ranges of their own at once.
        """


class Files(ABC):
    """Reading, atomic writing and listing below one root."""

    @abstractmethod
    def path(self, key: str) -> str:
        """The full path or URL of a key, for messages."""

    @abstractmethod
    def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Read whole files; those that do not exist are left out.

        Raises:
            StoreError: one cannot be read, is no regular file, lies outside the root, or is too large.
        """

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[Blob]:
        """Open one file for reading.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read, is no regular file, or lies outside the root.
        """

    @abstractmethod
    def write(self, key: str, *parts: bytes) -> None:
        """Create or replace one file, made of `parts` one behind the other, in one step."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Create a file where there is none, in one step, and say whether that was so."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a file, or a directory with all that is in it; nothing happens where there is none."""

    @abstractmethod
    def remove_file(self, key: str) -> None:
        """Remove a file that this process has made; nothing happens where there is none."""

    @abstractmethod
    def directories(self, key: str) -> list[str]:
        """Names of the directories directly below `key`, sorted; empty where `key` does not exist.

        Hidden ones are left out, and those that begin with two underscores: locks, and what other programs leave.
        """

    @abstractmethod
    def identity(self, key: str) -> str:
        """One text per directory, whatever links lead to it."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of a file, or of all files in a directory; 0 where there is neither."""

    @abstractmethod
    def remove_partials(self, key: str, *, abandoned_only: bool) -> None:
        """Remove what killed writers left below `key`; with `abandoned_only` spare what may still be written."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space where the root is or would be; None where that has no meaning."""


class _LocalBlob(Blob):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = Lock()
        self.size = os.fstat(file.fileno()).st_size

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[UInt8[np.ndarray, " byte"]]:
        # One scratch buffer for all ranges stays in the processor's cache.
        scratch = np.empty(max((length for _, length in ranges), default=0), np.uint8)
        for offset, length in ranges:
            with self._place:
                self._file.seek(offset)
                count = self._file.readinto(scratch[:length].data)  # type: ignore[attr-defined]
            yield scratch[:count]


class LocalFiles(Files):
    """`Files` in a directory, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str) -> str:
        """See `Files`."""
        return str(self._root / key)

    def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Files`."""
        found = {}
        for key in keys:
            try:
                found[key] = read_bounded(self._inside(key), max_bytes=MAX_SMALL_BYTES)
            except FileNotFoundError:
                continue
            except DocumentError as error:
                raise IrregularFileError(str(error)) from error
        return found

    @contextmanager
    def open(self, key: str) -> Iterator[Blob]:
        """See `Files`."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open_regular(self._inside(key)))
            except DocumentError as error:
                raise IrregularFileError(str(error)) from error
            yield _LocalBlob(file)

    def _inside(self, key: str) -> Path:
        """The path of a file to read; a folder may be a link, a file only within the store or into a cache.

        Raises:
            StoreError: the file is a link that leads elsewhere.
        """
        path = self._root / key
        if not path.is_symlink():
            return path
        target = os.path.realpath(path)
        inside = (os.path.realpath(self._root), os.path.realpath(path.parent))
        if not target.startswith(tuple(f"{folder}{os.sep}" for folder in inside)) and (
            _CONTENT_ADDRESSED.search(target) is None
        ):
            raise IrregularFileError(
                f"{path} is a link that leads out of the store, to {target}; put the file itself there"
            )
        return path

    def write(self, key: str, *parts: bytes) -> None:
        """See `Files`."""
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.writelines(parts)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def create(self, key: str, content: bytes) -> bool:
        """See `Files`."""
        try:
            with self.local(key).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def local(self, key: str) -> Path:
        """The path of a key, for libraries that take one."""
        return self._root / key

    def remove(self, key: str) -> None:
        """See `Files`."""
        path = self._root / key
        if key and not is_inside(path, self._root):
            raise StoreError(f"{path} lies outside {self._root}, behind a link; it is not removed")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_file(self, key: str) -> None:
        """See `Files`."""
        self.local(key).unlink(missing_ok=True)

    def directories(self, key: str) -> list[str]:
        """See `Files`."""
        path = self._root / key
        return sorted(e.name for e in path.iterdir() if e.is_dir() and _is_shown(e.name)) if path.is_dir() else []

    def identity(self, key: str) -> str:
        """See `Files`."""
        return os.path.realpath(self._root / key)

    def size(self, key: str) -> int:
        """See `Files`."""
        path = self._root / key
        if path.is_file():
            return path.stat().st_size
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    def remove_partials(self, key: str, *, abandoned_only: bool) -> None:
        """See `Files`."""
        newest = time.time() - ABANDONED_AFTER_S if abandoned_only else float("inf")
        for partial in (self._root / key).rglob("*.partial"):
            try:
                if partial.stat().st_mtime < newest:
                    partial.unlink()
            except FileNotFoundError:  # its writer finished, or another process cleans up too
                continue

    def free_bytes(self) -> int | None:
        """See `Files`."""
        existing = next(path for path in (self._root.absolute(), *self._root.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Whatever the library behind a URL raises becomes one error of ours, but for what says that nothing is there.

    Raises:
        StoreError: the library is missing, or has no answer.
    """
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        raise StoreError(f"{url} cannot be reached: {type(error).__name__}: {words}") from error


class _RemoteBlob(Blob):
    def __init__(self, system: Any, path: str, url: str) -> None:  # noqa: ANN401
        self._system, self._path, self._url = system, path, url
        with _reaching(url):
            self.size = int(system.size(path))

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[UInt8[np.ndarray, " byte"]]:
        starts, ends = [offset for offset, _ in ranges], [offset + length for offset, length in ranges]
        with _reaching(self._url):
            contents = self._system.cat_ranges([self._path] * len(ranges), starts, ends, on_error="raise")
        for content in contents:
            yield np.frombuffer(content, np.uint8)


class RemoteFiles(Files):
    """`Files` below a URL."""

    def __init__(self, url: str) -> None:
        import fsspec  # only where a URL is used

        self._url = url.rstrip("/")
        with _reaching(self._url):
            self._system, root = fsspec.url_to_fs(self._url)
        self._root = root.rstrip("/")

    def _full(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def path(self, key: str) -> str:
        """See `Files`."""
        return f"{self._url}/{key}"

    def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Files`."""
        if not keys:
            return {}
        with _reaching(self._url):
            contents = self._system.cat([self._full(key) for key in keys], on_error="return")
        found = {}
        for key in keys:
            content = contents[self._full(key)]
            if isinstance(content, FileNotFoundError | IsADirectoryError):
                continue
            with _reaching(self.path(key)):
                if isinstance(content, Exception):
                    raise content
            found[key] = content
        return found

    @contextmanager
    def open(self, key: str) -> Iterator[Blob]:
        """See `Files`."""
        yield _RemoteBlob(self._system, self._full(key), self.path(key))

    def write(self, key: str, *parts: bytes) -> None:
        """See `Files`."""
        with _reaching(self.path(key)):
            self._system.pipe_file(self._full(key), b"".join(parts))

    def create(self, key: str, content: bytes) -> bool:
        """See `Files`; a file system that cannot put only where there is none puts always."""
        with _reaching(self.path(key)):
            try:
                self._system.pipe_file(self._full(key), content, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError):
                self._system.pipe_file(self._full(key), content)
        return True

    def remove(self, key: str) -> None:
        """See `Files`."""
        self._system.invalidate_cache()
        with _reaching(self.path(key)):
            if self._system.exists(self._full(key)):
                self._system.rm(self._full(key), recursive=True)

    def remove_file(self, key: str) -> None:
        """See `Files`."""
        with suppress(FileNotFoundError), _reaching(self.path(key)):
            self._system.rm_file(self._full(key))

    def directories(self, key: str) -> list[str]:
        """See `Files`."""
        self._system.invalidate_cache()
        try:
            with _reaching(self.path(key)):
                entries = self._system.ls(self._full(key), detail=True)
        except FileNotFoundError:
            return []
        names = [Path(entry["name"]).name for entry in entries if entry["type"] == "directory"]
        return sorted(name for name in names if _is_shown(name))

    def identity(self, key: str) -> str:
        """See `Files`."""
        return self.path(key)

    def size(self, key: str) -> int:
        """See `Files`."""
        self._system.invalidate_cache()
        with _reaching(self.path(key)):
            return int(self._system.du(self._full(key))) if self._system.exists(self._full(key)) else 0

    def remove_partials(self, key: str, *, abandoned_only: bool) -> None:
        """See `Files`; a put that was cut short leaves nothing."""

    def free_bytes(self) -> int | None:
        """See `Files`."""
        return None


def _is_shown(name: str) -> bool:
    """Whether a folder of this name may hold a group."""
    return not name.startswith((".", "__"))


def open_files(root: StorePath) -> Files:
    """Files below a local directory or an fsspec URL; nothing is created or read yet.

    A URL may have gone through `Path`, which leaves one slash of two.
    """
    text = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/])", r"\1://", os.fspath(root))
    return RemoteFiles(text) if "://" in text else LocalFiles(Path(text))
