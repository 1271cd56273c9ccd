"""Read one shard: a zarr v3 `sharding_indexed` file with its index at the end.

A shard is [chunk, chunk, ..., index]. A chunk consists of compressed bytes and their CRC-32C. The index consists of a
pair of little-endian uint64 (offset, length) for each chunk, and a CRC-32C of them. zarr's reader returns fill values
for a missing or empty shard. This reader raises an error unless the shard is exactly as written, and decodes directly
into the result. Several threads check and decode the chunks of a large unit: decoding releases the interpreter lock.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import google_crc32c
import numpy as np
from jaxtyping import Num, UInt8, UInt32

from difftrack.store._codecs import CHECKSUM_BYTES, check_decoded_size, decode_into
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Blob, Files
from difftrack.store._spec import ArrayLayout

__all__ = ["read_shard", "shard_checksums", "shard_problem"]

Checksums = UInt32[np.ndarray, " chunk"]
"""CRC-32C of each chunk of one unit."""

_MOST_THREADS = 4
"""Maximum number of threads for one unit; more are limited by the speed of the memory."""

_THREADED_BYTES = 1 << 23
"""Units of at least this size are decoded by several threads; starting a thread takes about 0.1 ms."""


def read_shard(
    files: Files,
    key: str,
    layout: ArrayLayout,
    *,
    latent_frame: int | None = None,
    checksums: Checksums | None = None,
) -> Num[np.ndarray, "*stored"]:
    """Read the stored numbers of one unit, or of one of its latent frames.

    Args:
        files: Files of the store.
        key: The shard's key in the root.
        layout: The array that contains the shard.
        latent_frame: Read only this latent frame, and so only one chunk; its axis is dropped.
        checksums: Checksums of the unit from the header; None if the header has none.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    per_chunk = layout.frames_per_chunk
    chunks = range(layout.num_chunks)
    if latent_frame is not None and per_chunk is not None:
        chunks = range(latent_frame // per_chunk, latent_frame // per_chunk + 1)
    with _open(files, key) as blob:
        index = _read_index(blob, layout.num_chunks)
        expected: Sequence[int | None] = [None] * len(index) if checksums is None else checksums.tolist()

        def contents(numbers: Sequence[int]) -> Iterator[UInt8[np.ndarray, " byte"]]:
            parts = blob.ranges([index[number] for number in numbers])
            return map(_checked, parts, [expected[number] for number in numbers])

        try:
            if len(chunks) == layout.num_chunks > 1:
                return _assemble(contents, layout)
            values = _decode(next(contents(chunks)), layout)
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{files.path(key)} is damaged: {error}") from error
        except MemoryError as error:
            needed = np.dtype(layout.dtype).itemsize * math.prod(layout.shape)
            raise StoreError(f"{files.path(key)} needs {needed} bytes of memory, more than is free") from error
    if latent_frame is None or per_chunk is None:
        return values[:, : layout.shape[1]]
    return values[:, latent_frame % per_chunk]


def shard_problem(
    files: Files, key: str, layout: ArrayLayout, *, content: bool, checksums: Checksums | None = None
) -> str | None:
    """Return the problem of a shard; None if it is valid.

    Args:
        files: Files of the store.
        key: The shard's key in the root.
        layout: The array that contains the shard.
        content: Check the whole file. False checks only the size and the index (0.1 ms per shard), which finds every
            problem except changed bytes in chunks and swapped units.
        checksums: Checksums of the unit from the header. None decodes each chunk instead, which finds every problem
            except swapped units of the same shape.
    """
    try:
        with _open(files, key) as blob:
            index = _read_index(blob, layout.num_chunks)
            if not content:
                return None
            if checksums is not None:
                for chunk, expected in zip(blob.ranges(index), checksums.tolist(), strict=True):
                    _checked(chunk, expected)
                return None
        read_shard(files, key, layout)
    except StoreError as error:
        return str(error).removeprefix(f"{files.path(key)} ")
    except ValueError as error:
        return f"is damaged: {error}"
    return None


def shard_checksums(files: Files, key: str, num_chunks: int) -> UInt32[np.ndarray, " chunk"]:
    """Read the checksums stored in the chunks of a shard; only a few bytes of each chunk are read.

    Raises:
        StoreError: the shard is missing or its index is damaged.
    """
    with _open(files, key) as blob:
        ends = [offset + length for offset, length in _read_index(blob, num_chunks)]
        found = blob.ranges([(end - CHECKSUM_BYTES, CHECKSUM_BYTES) for end in ends])
        return np.concatenate([part.copy().view("<u4") for part in found]).astype(np.uint32)


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
    """Read (offset, length) of every chunk, and check that chunks and index fill the file exactly."""
    size = 16 * num_chunks + CHECKSUM_BYTES
    if blob.size < size:
        raise _IndexError(f"its {blob.size} bytes are too few for its index")
    try:
        table = _checked(next(blob.ranges([(blob.size - size, size)])), None).copy().view("<u8").reshape(num_chunks, 2)
    except ValueError as error:
        raise _IndexError(f"index: {error}") from error
    index = [(int(offset), int(length)) for offset, length in table]
    end = 0
    for offset, length in sorted(index):
        if offset != end or length < CHECKSUM_BYTES:
            raise _IndexError("its index leaves gaps or lacks a chunk")
        end = offset + length
    if end + size != blob.size:
        raise _IndexError(f"it has {blob.size} bytes, but its index accounts for {end + size}")
    return index


def _checked(content: UInt8[np.ndarray, " byte"], expected: int | None) -> UInt8[np.ndarray, "byte-4"]:
    """Split off the checksum at the end and compare it with the body and with the expected checksum."""
    body, stored = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    checksum = int.from_bytes(stored.tobytes(), "little")
    if stored.size != CHECKSUM_BYTES or google_crc32c.value(body) != checksum:
        raise ValueError("a checksum does not match")
    if expected is not None and checksum != expected:
        raise ValueError("it is not the unit that was written here")
    return body


def _decode(content: UInt8[np.ndarray, " byte"], layout: ArrayLayout) -> Num[np.ndarray, "*chunk"]:
    check_decoded_size(layout.codec, content, math.prod(layout.chunk_shape) * np.dtype(layout.dtype).itemsize)
    values = np.empty(layout.chunk_shape, layout.dtype)
    decode_into(layout.codec, content, values.reshape(-1).view(np.uint8))
    return values


def _assemble(
    contents: Callable[[Sequence[int]], Iterator[UInt8[np.ndarray, " byte"]]], layout: ArrayLayout
) -> Num[np.ndarray, "*unit"]:
    """Decode all chunks of a unit; its memory is allocated only after the size of the first chunk has been checked."""
    step = layout.chunk_shape[1]
    chunk_bytes = math.prod(layout.chunk_shape) * np.dtype(layout.dtype).itemsize
    first = next(contents([0]))
    check_decoded_size(layout.codec, first, chunk_bytes)
    values = np.empty(layout.shape, layout.dtype)

    def decode(numbers: Sequence[int], parts: Iterator[UInt8[np.ndarray, " byte"]]) -> None:
        chunk = np.empty(layout.chunk_shape, layout.dtype)
        for number, content in zip(numbers, parts, strict=True):
            decode_into(layout.codec, content, chunk.reshape(-1).view(np.uint8))
            start, stop = number * step, min((number + 1) * step, layout.shape[1])
            values[:, start:stop] = chunk[:, : stop - start]

    decode([0], iter([first]))
    others = range(1, layout.num_chunks)
    threads = min(_num_threads(), len(others)) if values.nbytes >= _THREADED_BYTES else 1
    if threads == 1:
        decode(others, contents(others))
        return values
    with ThreadPoolExecutor(threads) as pool:
        parts = [others[thread::threads] for thread in range(threads)]
        for done in [pool.submit(decode, part, contents(part)) for part in parts]:
            done.result()
    return values


def _num_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)
