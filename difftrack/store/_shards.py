"""Reading one shard: a zarr v3 `sharding_indexed` file with its index at the end.

A shard is [chunk, chunk, ..., index], a chunk its compressed bytes and their CRC-32C, the index a pair of little-endian
uint64 (offset, length) per chunk and a CRC-32C of them. zarr's own reader returns fill values for a shard that is
missing or empty; this one raises for anything that is not exactly what was written, and decodes into the result.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import google_crc32c
import numpy as np
from jaxtyping import Num, UInt8

from difftrack.store._codecs import CHECKSUM_BYTES, decode_into
from difftrack.store._errors import StoreError
from difftrack.store._files import Blob, Files
from difftrack.store._spec import ArrayLayout

__all__ = ["read_shard", "shard_problem"]


def read_shard(
    files: Files, key: str, layout: ArrayLayout, *, latent_frame: int | None = None
) -> Num[np.ndarray, "*stored"]:
    """Read the stored numbers of one unit, or of one latent frame of it.

    Args:
        files: Where the store lies.
        key: The shard's key below the root.
        layout: The array that the shard belongs to.
        latent_frame: Read this one only, which takes one chunk; its axis is dropped.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    per_chunk = layout.frames_per_chunk
    chunks = range(layout.num_chunks)
    if latent_frame is not None and per_chunk is not None:
        chunks = range(latent_frame // per_chunk, latent_frame // per_chunk + 1)
    with _open(files, key) as blob:
        index = _read_index(blob, layout.num_chunks)
        contents = blob.ranges([index[chunk] for chunk in chunks])
        try:
            if len(chunks) == layout.num_chunks > 1:
                return _assemble(contents, layout)
            values = _decode(_checked(next(contents)), layout)
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{files.path(key)} is damaged: {error}") from error
    if latent_frame is None or per_chunk is None:
        return values[:, : layout.shape[1]]
    return values[:, latent_frame % per_chunk]


def shard_problem(files: Files, key: str, layout: ArrayLayout, *, checksums: bool) -> str | None:
    """What is wrong with a shard, or None.

    Args:
        files: Where the store lies.
        key: The shard's key below the root.
        layout: The array that the shard belongs to.
        checksums: Read the whole file and check every byte; otherwise size and index only, 0.1 ms a shard, which finds
            anything but changed bytes within chunks.
    """
    try:
        with _open(files, key) as blob:
            index = _read_index(blob, layout.num_chunks)
            for content in blob.ranges(index if checksums else []):
                _checked(content)
    except StoreError as error:
        return str(error).removeprefix(f"{files.path(key)} ")
    except ValueError as error:
        return f"is damaged: {error}"
    return None


@contextmanager
def _open(files: Files, key: str) -> Iterator[Blob]:
    try:
        with files.open(key) as blob:
            yield blob
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(f"{files.path(key)} is missing") from error
    except _IndexError as error:
        raise StoreError(f"{files.path(key)} is damaged: {error}") from error


class _IndexError(ValueError):
    pass


def _read_index(blob: Blob, num_chunks: int) -> list[tuple[int, int]]:
    """(offset, length) of every chunk, after checking that they and the index fill the file exactly."""
    size = 16 * num_chunks + CHECKSUM_BYTES
    if blob.size < size:
        raise _IndexError(f"{blob.size} bytes are too few for its index")
    try:
        table = _checked(next(blob.ranges([(blob.size - size, size)]))).copy().view("<u8").reshape(num_chunks, 2)
    except ValueError as error:
        raise _IndexError(f"index: {error}") from error
    index = [(int(offset), int(length)) for offset, length in table]
    end = 0
    for offset, length in sorted(index):
        if offset != end or length < CHECKSUM_BYTES:
            raise _IndexError("its index leaves gaps or lacks a chunk")
        end = offset + length
    if end + size != blob.size:
        raise _IndexError(f"{blob.size} bytes, but its index accounts for {end + size}")
    return index


def _checked(content: UInt8[np.ndarray, " byte"]) -> UInt8[np.ndarray, "byte-4"]:
    """Split off the checksum at the end and compare it."""
    body, stored = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if stored.size != CHECKSUM_BYTES or google_crc32c.value(body) != int.from_bytes(stored.tobytes(), "little"):
        raise ValueError("a checksum does not match")
    return body


def _decode(content: UInt8[np.ndarray, " byte"], layout: ArrayLayout) -> Num[np.ndarray, "*chunk"]:
    values = np.empty(layout.chunk_shape, layout.dtype)
    decode_into(layout.codec, content, values.reshape(-1).view(np.uint8))
    return values


def _assemble(contents: Iterator[UInt8[np.ndarray, " byte"]], layout: ArrayLayout) -> Num[np.ndarray, "*unit"]:
    values = np.empty(layout.shape, layout.dtype)
    chunk = np.empty(layout.chunk_shape, layout.dtype)
    step = layout.chunk_shape[1]
    for start, content in zip(range(0, layout.shape[1], step), contents, strict=True):
        decode_into(layout.codec, _checked(content), chunk.reshape(-1).view(np.uint8))
        stop = min(start + step, layout.shape[1])
        values[:, start:stop] = chunk[:, : stop - start]
    return values
