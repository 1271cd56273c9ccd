"""Read npy and npz files from untrusted sources: no pickles, no devices, no more memory than the file justifies.

NumPy allocates memory for the shape declared in a header, and a zip archive may expand to a thousand times its size.
Both declarations are checked against the file before anything is read.
"""

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import cast

import numpy as np

__all__ = ["MAX_UNPACKED_BYTES", "array_names", "read_array", "read_arrays"]

MAX_UNPACKED_BYTES = 2**32
"""Maximum unpacked size of a compressed npz file in bytes; an uncompressed file is limited by its own size."""


def read_array(path: Path) -> np.ndarray:
    """Read an npy file.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file is not regular, is not an npy file, or declares more data than it has.
    """
    _check_regular(path)
    with path.open("rb") as file:
        try:
            _check_header(file, path.stat().st_size)
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"it is not a readable npy file ({_cause(error)})") from error


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file; with `names`, only those of the named arrays that exist.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file is not regular, is not an npz file, is truncated, or declares more data than it has or may
            have.
    """
    _check_regular(path)
    with path.open("rb") as file:
        try:
            _check_archive(file, path.stat().st_size)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: np.asarray(stored[name]) for name in stored if names is None or name in names}
        except OSError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors for damaged files
            raise ValueError(f"it is not a readable npz file ({_cause(error)})") from error


def array_names(path: Path) -> set[str] | None:
    """Return the names of the arrays in an npz file; empty for another kind of file, None for a missing file."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")


def _check_archive(file: io.BufferedIOBase, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked, most = sum(member.file_size for member in members), max(size, MAX_UNPACKED_BYTES)
        if unpacked > most:
            raise ValueError(f"it unpacks to {unpacked} bytes; at most {most} are read")
        for member in members:
            with archive.open(member) as content:
                _check_header(cast(io.BufferedIOBase, content), member.file_size)


def _check_header(file: io.BufferedIOBase, size: int) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it contains pickled objects; only numbers and text are read")
    if (declared := math.prod(shape) * dtype.itemsize) > size:
        raise ValueError(f"an array of shape {shape} declares {declared} bytes, but the file has {size}")


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
