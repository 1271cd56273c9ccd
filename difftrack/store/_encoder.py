"""Writing one shard: the bytes that zarr itself would write, made in the calling thread.

zarr-python 3.1 passes every chunk of a process through one event loop, behind which writers queue and which takes the
interpreter from whatever launches a GPU's work; and it reads a shard before it overwrites one, so that it cannot
replace a damaged one. The tests hold this module to zarr's own bytes, codec by codec.
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

# Blosc's own threads finish their blocks in any order, and so would a file's bytes be.
numcodecs.blosc.use_threads = False


def encode_shard(layout: ArrayLayout, numbers: Num[np.ndarray, "*unit"]) -> list[bytes]:
    """Encode one unit: each chunk and its checksum, then the index; `_shards` reads what they make together.

    Args:
        layout: The array that the shard belongs to.
        numbers: Of `layout.shape` and `layout.dtype`.
    """
    return join_chunks([encode_chunk(layout, numbers, index) for index in range(layout.num_chunks)])


def encode_chunk(layout: ArrayLayout, numbers: Num[np.ndarray, "*unit"], index: int) -> tuple[bytes, bytes]:
    """Encode one of a unit's chunks, and give its checksum; the interpreter is free while it is compressed."""
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
    """Lay the chunks of one array's unit one behind the other, and the index of where they are behind them."""
    ends = np.cumsum([0, *(len(encoded) + CHECKSUM_BYTES for encoded, _ in chunks)])
    table = np.stack([ends[:-1], np.diff(ends)], axis=1).astype("<u8").tobytes()
    return [*chain.from_iterable(chunks), table, _checksum(table)]


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")
