"""Codecs of the stored chunks: zarr v3 metadata, encoder and decoder.

With every codec, a chunk ends with a CRC-32C of its compressed bytes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Num, UInt8
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from difftrack.store._params import CodecName

__all__ = ["CHECKSUM_BYTES", "check_decoded_size", "decode_into", "encode", "zarr_codecs"]

BLOSC_BLOCK_BYTES = 1 << 20
"""Blosc's block size in bytes; its smaller default halves the gain of byte shuffling."""

BLOSC_SIZE = slice(4, 8)
"""Position of the decoded size, a little-endian number, in a Blosc chunk."""

MOST_ZSTD_RATIO = 1 << 16
"""Upper bound of Zstandard's compression ratio: a block of 128 KiB always takes a few bytes."""

CHECKSUM_BYTES = 4
"""Size of a CRC-32C."""

_BLOSC: Mapping[str, tuple[Literal["zstd", "lz4"], Literal["shuffle", "bitshuffle"]]] = {
    "blosc-zstd": ("zstd", "shuffle"),
    "blosc-lz4": ("lz4", "bitshuffle"),
}
"""Blosc codecs: name -> compressor and shuffle."""

_SHUFFLES = {"shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}

_DECODERS = {"blosc-zstd": Blosc(), "blosc-lz4": Blosc(), "zstd": Zstd()}


def zarr_codecs(name: CodecName, level: int, itemsize: int) -> list[Any]:
    """Return the compressors of a zarr array: the named codec, then the checksum."""
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec  # reading needs no zarr

    if name == "none":
        return [Crc32cCodec()]
    if name == "zstd":
        return [ZstdCodec(level=level, checksum=False), Crc32cCodec()]
    compressor, shuffle = _BLOSC[name]
    blosc = BloscCodec(cname=compressor, clevel=level, shuffle=shuffle, typesize=itemsize, blocksize=BLOSC_BLOCK_BYTES)
    return [blosc, Crc32cCodec()]


def encode(name: CodecName, level: int, chunk: Num[np.ndarray, "*chunk"]) -> bytes:
    """Encode one chunk, without its checksum, to the same bytes as `zarr_codecs`."""
    if name == "none":
        return chunk.tobytes()
    if name == "zstd":
        return bytes(Zstd(level=level).encode(chunk))
    compressor, shuffle = _BLOSC[name]
    return bytes(Blosc(compressor, level, _SHUFFLES[shuffle], BLOSC_BLOCK_BYTES, typesize=chunk.itemsize).encode(chunk))


def check_decoded_size(name: CodecName, content: UInt8[np.ndarray, " byte"], num_bytes: int) -> None:
    """Check that a chunk decodes to `num_bytes` before memory is allocated.

    Raises:
        ValueError: the chunk decodes to another number of bytes.
    """
    if name == "none":
        found = content.size
    elif name == "zstd":
        found = min(num_bytes, content.size * MOST_ZSTD_RATIO)
    else:
        found = int.from_bytes(content[BLOSC_SIZE].tobytes(), "little")
    if found != num_bytes:
        raise ValueError(f"a chunk has {found} bytes; expected {num_bytes}")


def decode_into(name: CodecName, content: UInt8[np.ndarray, " byte"], out: UInt8[np.ndarray, " value_byte"]) -> None:
    """Decode one chunk whose checksum has been removed.

    Raises:
        ValueError: the content is not such a chunk, or its size differs from that of `out`.
        RuntimeError: the same, raised by the codec library.
    """
    if name != "none":
        _DECODERS[name].decode(content, out=out)
    elif content.size == out.size:
        out[:] = content
    else:
        raise ValueError(f"a chunk has {content.size} bytes; expected {out.size}")
