"""Params of the store's format."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CodecName", "DTypeName", "StoreParams"]

CodecName = Literal["blosc-zstd", "blosc-lz4", "zstd", "none"]
DTypeName = Literal["float16", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class StoreParams:
    """Format of stored descriptors. The fingerprint covers these params, so a change makes another store."""

    dtype: DTypeName = "float16"
    """float16 (refuses absolute values above 65504), bfloat16 (any range, read as float32), int8 (half the size,
    lossy)."""
    codec: CodecName = "blosc-zstd"
    """blosc-zstd gives the smallest files, blosc-lz4 is the fastest to read, none suits disks with their own
    compression."""
    level: int = 1
    """Compression level, 0-9; higher levels are slower and barely reduce the size of descriptors."""
    round_to_bf16: bool = False
    """Round float32 values to bfloat16 before the cast to float16: smaller files, but 8 instead of 11 bits of
    mantissa."""
    chunk_bytes: int = 1 << 20
    """Target size of a chunk in bytes. A chunk contains as many whole latent frames of one unit as needed to reach it;
    it is the least that a read decodes. Smaller chunks compress worse and need more calls."""

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 9:
            raise ValueError(f"level is {self.level}; it must lie in 0-9")
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}; it must be at least 1")
        if self.round_to_bf16 and self.dtype != "float16":
            raise ValueError(f"round_to_bf16 applies only to dtype float16, but dtype is {self.dtype}")
