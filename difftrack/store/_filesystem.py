"""Access files in one root folder, on a local disk or behind an fsspec URL.

Keys are relative paths with forward slashes. A local write creates a `.partial` file beside its target and renames it,
so a reader sees either the old or the new file. An object store's put is atomic by itself.
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
"""A directory, or a URL that fsspec supports (`s3://bucket/prefix`, `memory://name`)."""

ABANDONED_AFTER_S = 3600.0
"""Age in seconds at which a `.partial` file is considered abandoned; writing one takes seconds."""


MAX_SMALL_BYTES = 4 << 30
"""Maximum size of a file that is read at once: headers, labels, and arrays of results."""

_CONTENT_ADDRESSED = re.compile(r"/(files/md5/[0-9a-f]{2}/[0-9a-f]{30}|blobs/[0-9a-f]{40,64})$")
"""Matches files in DVC's cache and the Hugging Face cache, which links may point to."""


class Blob(ABC):
    """One open file."""

    size: int
    """Size in bytes."""

    @abstractmethod
    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[UInt8[np.ndarray, " byte"]]:
        """Yield the bytes of each (offset, length); an array is valid only until the next one is read.

        Several threads may call this method on one file at once.
        """


class Files(ABC):
    """Reads, writes atomically and lists files in one root folder."""

    @abstractmethod
    def path(self, key: str) -> str:
        """Return the full path or URL of a key, for messages."""

    @abstractmethod
    def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Read whole files; files that do not exist are left out.

        Raises:
            StoreError: a file cannot be read, is not regular, lies outside the root, or is too large.
        """

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[Blob]:
        """Open one file for reading.

        Raises:
            FileNotFoundError: the file does not exist.
            StoreError: the file cannot be read, is not regular, or lies outside the root.
        """

    @abstractmethod
    def write(self, key: str, *parts: bytes) -> None:
        """Atomically create or replace a file with the concatenation of `parts`."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Atomically create a file if it does not exist; return whether it was created."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a file, or a directory with its contents; does nothing if it does not exist."""

    @abstractmethod
    def remove_file(self, key: str) -> None:
        """Remove a file made by this process; does nothing if it does not exist."""

    @abstractmethod
    def directories(self, key: str) -> list[str]:
        """List the directories in `key`, sorted by name; empty if `key` does not exist.

        Hidden directories and names that begin with two underscores are left out: locks, and files of other programs.
        """

    @abstractmethod
    def identity(self, key: str) -> str:
        """Return a string that identifies a directory independently of links."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the size of a file, or of all files in a directory; 0 if it does not exist."""

    @abstractmethod
    def remove_partials(self, key: str, *, abandoned_only: bool) -> None:
        """Remove partial files of killed writers; `abandoned_only` keeps files that may still be written."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return the free space at the root's location; None where that is undefined."""


class _LocalBlob(Blob):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = Lock()
        self.size = os.fstat(file.fileno()).st_size

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[UInt8[np.ndarray, " byte"]]:
        # One buffer for all ranges stays in the processor's cache.
        scratch = np.empty(max((length for _, length in ranges), default=0), np.uint8)
        for offset, length in ranges:
            with self._place:
                self._file.seek(offset)
                count = self._file.readinto(scratch[:length].data)  # type: ignore[attr-defined]
            yield scratch[:count]


class LocalFiles(Files):
    """`Files` in a local directory, which need not exist yet."""

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
        """Return the path of a file to read. Folders may be links; a file may only link into the store or a cache.

        Raises:
            StoreError: the file is a link to another place.
        """
        path = self._root / key
        if not path.is_symlink():
            return path
        target = os.path.realpath(path)
        inside = (os.path.realpath(self._root), os.path.realpath(path.parent))
        if not target.startswith(tuple(f"{folder}{os.sep}" for folder in inside)) and (
            _CONTENT_ADDRESSED.search(target) is None
        ):
            raise IrregularFileError(f"{path} is a link to {target} outside the store; replace it with the file itself")
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
        """Return the local path of a key."""
        return self._root / key

    def remove(self, key: str) -> None:
        """See `Files`."""
        path = self._root / key
        if key and not is_inside(path, self._root):
            raise StoreError(f"{path} lies outside {self._root}, behind a link, and was not removed; remove the link")
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
            except FileNotFoundError:  # its writer finished, or another process removed it
                continue

    def free_bytes(self) -> int | None:
        """See `Files`."""
        existing = next(path for path in (self._root.absolute(), *self._root.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free


@contextmanager
def _remote_errors(url: str) -> Iterator[None]:
    """Convert any error of an fsspec library, except FileNotFoundError, to a StoreError.

    Raises:
        StoreError: the library is missing, or the URL cannot be reached.
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
        with _remote_errors(url):
            self.size = int(system.size(path))

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[UInt8[np.ndarray, " byte"]]:
        starts, ends = [offset for offset, _ in ranges], [offset + length for offset, length in ranges]
        with _remote_errors(self._url):
            contents = self._system.cat_ranges([self._path] * len(ranges), starts, ends, on_error="raise")
        for content in contents:
            yield np.frombuffer(content, np.uint8)


class RemoteFiles(Files):
    """`Files` behind a URL."""

    def __init__(self, url: str) -> None:
        import fsspec  # needed only for URLs

        self._url = url.rstrip("/")
        with _remote_errors(self._url):
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
        with _remote_errors(self._url):
            contents = self._system.cat([self._full(key) for key in keys], on_error="return")
        found = {}
        for key in keys:
            content = contents[self._full(key)]
            if isinstance(content, FileNotFoundError | IsADirectoryError):
                continue
            with _remote_errors(self.path(key)):
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
        with _remote_errors(self.path(key)):
            self._system.pipe_file(self._full(key), b"".join(parts))

    def create(self, key: str, content: bytes) -> bool:
        """See `Files`; a file system without conditional put always writes and returns True."""
        with _remote_errors(self.path(key)):
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
        with _remote_errors(self.path(key)):
            if self._system.exists(self._full(key)):
                self._system.rm(self._full(key), recursive=True)

    def remove_file(self, key: str) -> None:
        """See `Files`."""
        with suppress(FileNotFoundError), _remote_errors(self.path(key)):
            self._system.rm_file(self._full(key))

    def directories(self, key: str) -> list[str]:
        """See `Files`."""
        self._system.invalidate_cache()
        try:
            with _remote_errors(self.path(key)):
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
        with _remote_errors(self.path(key)):
            return int(self._system.du(self._full(key))) if self._system.exists(self._full(key)) else 0

    def remove_partials(self, key: str, *, abandoned_only: bool) -> None:
        """See `Files`; an interrupted put leaves no file, so there is nothing to remove."""

    def free_bytes(self) -> int | None:
        """See `Files`."""
        return None


def _is_shown(name: str) -> bool:
    """Whether a folder of this name may contain a group."""
    return not name.startswith((".", "__"))


def open_files(root: StorePath) -> Files:
    """Return the files in a local directory or behind an fsspec URL; nothing is created or read yet.

    A URL that was converted to a `Path` has only one slash, which is repaired.
    """
    text = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/])", r"\1://", os.fspath(root))
    return RemoteFiles(text) if "://" in text else LocalFiles(Path(text))
