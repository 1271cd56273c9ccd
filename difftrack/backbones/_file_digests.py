"""Caches SHA-256 digests of large files by path, size, times and inode, so that gigabytes of weights are read once."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from difftrack.documents import DocumentError, read_json

__all__ = ["CACHE", "file_digest"]

CACHE: Final = "DIFFTRACK_CACHE"
"""Environment variable with the folder of the cached digests; by default `difftrack` in the user's cache."""

_SMALL: Final = 1 << 20
"""Bytes up to which a file is read each time."""
_SETTLED_NS: Final = 2 * 10**9
"""Minimum age of a file's last change at which its times reveal the next change, on every file system."""
_MOST: Final = 4_096
"""Entries that are kept; the newest stay."""


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    A file of more than a megabyte is not read again while its path, size, times of change, inode and device are those
    of the last time. Files that cannot be cached are read again; a broken cache causes no error.
    """
    before = file.stat()
    if before.st_size <= _SMALL:
        return _read(file)
    key = _key(file, before)
    cache = _cache_file()
    if (found := _remembered(cache).get(key)) is not None:
        return found
    digest = _read(file)
    settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS
    if settled and _key(file, file.stat()) == key:
        _remember(cache, key, digest)
    return digest


def _key(file: Path, stat: os.stat_result) -> str:
    return f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_dev}"


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cache_file() -> Path:
    chosen = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "difftrack")
    return Path(chosen) / "weights.json"


def _remembered(cache: Path) -> dict[str, str]:
    try:
        known = read_json(cache)
    except (DocumentError, OSError):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}


def _remember(cache: Path, key: str, digest: str) -> None:
    """Add one entry; if two processes add at once, one entry may be lost."""
    part = cache.with_name(f".{cache.name}.{os.getpid()}.part")
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        entries = list({**_remembered(cache), key: digest}.items())[-_MOST:]
        part.write_text(json.dumps(dict(entries), indent=0), encoding="utf-8")
        part.replace(cache)
