"""Reads npy and npz files that may be a stranger's: no pickles, no devices, no more memory than the file accounts for.

NumPy sets memory aside for the shape that a header claims, and a zip archive may unpack to a thousand times its size.
Both claims are held against the file before anything is read.
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
"""Most bytes that a compressed npz file may unpack to; an uncompressed one is bounded by its own size."""


def read_array(path: Path) -> np.ndarray:
    """Read an npy file.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no regular file, holds something else, or claims more than it has.
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
            raise ValueError(f"it is no npy file that can be read ({_cause(error)})") from error


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read an npz file, or those of its arrays that `names` has and the file too.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no regular file, holds something else, is cut short, or claims more than it has or may have.
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
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds over damaged bytes
            raise ValueError(f"it is no npz file that can be read ({_cause(error)})") from error


def array_names(path: Path) -> set[str] | None:
    """Names of the arrays of an npz file; none where the file is something else, and None where there is no file."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")


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
        raise ValueError("it holds objects, which only a pickle can carry; only numbers and text are read")
    if (claimed := math.prod(shape) * dtype.itemsize) > size:
        raise ValueError(f"an array of shape {shape} claims {claimed} bytes and the file has {size}")


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
