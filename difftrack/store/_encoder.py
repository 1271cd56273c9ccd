"""Writing one shard: the bytes that zarr itself would write, made in the calling thread.

zarr-python 3.1 passes every chunk of a process through one event loop, behind which writers queue and which takes the
interpreter from whatever launches a GPU's work; and it reads a shard before it overwrites one, so that it cannot
replace a damaged one. The tests hold this module to zarr's own bytes, codec by codec.
"""

import google_crc32c
import numcodecs.blosc
import numpy as np
from jaxtyping import Num

from difftrack.store._codecs import CHECKSUM_BYTES, encode
from difftrack.store._spec import ArrayLayout

__all__ = ["encode_shard"]

# Blosc's own threads finish their blocks in any order, and so would a file's bytes be.
numcodecs.blosc.use_threads = False


def encode_shard(layout: ArrayLayout, numbers: Num[np.ndarray, "*unit"]) -> list[bytes]:
    """Encode one unit: each chunk and its checksum, then the index; `_shards` reads what they make together.

    Chunks are made one after the other, in one buffer; the interpreter is free while one is compressed.

    Args:
        layout: The array that the shard belongs to.
        numbers: Of `layout.shape` and `layout.dtype`.
    """
    parts: list[bytes] = []
    index, end = [], 0
    chunk = np.empty(layout.chunk_shape, np.dtype(layout.dtype).newbyteorder("<"))
    for chunk_index in range(layout.num_chunks):
        if layout.frames_per_chunk is None:
            chunk[...] = numbers
        else:
            frames = numbers[:, chunk_index * layout.frames_per_chunk :][:, : layout.frames_per_chunk]
            chunk[:, : frames.shape[1]] = frames
            chunk[:, frames.shape[1] :] = layout.fill_value
        encoded = encode(layout.codec, layout.level, chunk)
        parts += [encoded, _checksum(encoded)]
        index.append((end, len(encoded) + CHECKSUM_BYTES))
        end += len(encoded) + CHECKSUM_BYTES
    table = np.array(index, "<u8").tobytes()
    return [*parts, table, _checksum(table)]


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")
