"""Encode one shard in the calling thread, to the same bytes that zarr writes.

zarr-python 3.1 passes every chunk of a process through one event loop. Writers wait for this loop, and it takes the
interpreter from the thread that launches GPU work. zarr also reads a shard before overwriting it, so it cannot replace
a damaged shard. Tests compare this module's bytes with zarr's for every codec.
"""

from collections.abc import Sequence
from itertools import chain

import google_crc32c
import numcodecs.blosc
import numpy as np
from jaxtyping import Num

from difftrack.store._codecs import CHECKSUM_BYTES, encode
from difftrack.store._spec import ArrayLayout

__all__ = ["encode_chunk", "encode_shard", "join_chunks"]

# Blosc's threads finish blocks in any order, which would make a file's bytes depend on timing.
numcodecs.blosc.use_threads = False


def encode_shard(layout: ArrayLayout, numbers: Num[np.ndarray, "*unit"]) -> list[bytes]:
    """Encode one unit to the parts of a shard: each chunk and its checksum, then the index; `_shards` reads it.

    Args:
        layout: The array that contains the shard.
        numbers: Stored values, with `layout.shape` and `layout.dtype`.
    """
    return join_chunks([encode_chunk(layout, numbers, index) for index in range(layout.num_chunks)])


def encode_chunk(layout: ArrayLayout, numbers: Num[np.ndarray, "*unit"], index: int) -> tuple[bytes, bytes]:
    """Encode one chunk of a unit and compute its checksum; compression releases the interpreter lock."""
    chunk = np.empty(layout.chunk_shape, np.dtype(layout.dtype).newbyteorder("<"))
    if layout.frames_per_chunk is None:
        chunk[...] = numbers
    else:
        frames = numbers[:, index * layout.frames_per_chunk :][:, : layout.frames_per_chunk]
        chunk[:, : frames.shape[1]] = frames
        chunk[:, frames.shape[1] :] = layout.fill_value
    encoded = encode(layout.codec, layout.level, chunk)
    return encoded, _checksum(encoded)


def join_chunks(chunks: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the parts of a shard: the chunks of one unit, followed by their index."""
    ends = np.cumsum([0, *(len(encoded) + CHECKSUM_BYTES for encoded, _ in chunks)])
    table = np.stack([ends[:-1], np.diff(ends)], axis=1).astype("<u8").tobytes()
    return [*chain.from_iterable(chunks), table, _checksum(table)]


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")
