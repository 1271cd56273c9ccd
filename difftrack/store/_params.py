"""How descriptors are stored."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CodecName", "DTypeName", "StoreParams"]

CodecName = Literal["blosc-zstd", "blosc-lz4", "zstd", "none"]
DTypeName = Literal["float16", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class StoreParams:
    """How descriptors are stored. What changes here makes another store: the fingerprint covers it."""

    dtype: DTypeName = "float16"
    """float16 (refuses values beyond 65504); bfloat16 (any range, read as float32); int8 (half the size, lossy)."""
    codec: CodecName = "blosc-zstd"
    """blosc-zstd is the smallest, blosc-lz4 the fastest to read, none for disks that compress by themselves."""
    level: int = 1
    """Compression level, 0-9; higher is slower and, on descriptors, hardly smaller."""
    round_to_bf16: bool = False
    """Round float32 values to bfloat16 before the float16 cast: smaller files, 8 instead of 11 bits of mantissa."""
    chunk_bytes: int = 1 << 20
    """A chunk holds whole latent frames of one unit, as many as reach this size: what the smallest read decodes.
    Smaller chunks compress worse and cost a call each."""

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 9:
            raise ValueError(f"level is {self.level}; 0 to 9 are allowed")
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}; it must be at least 1")
        if self.round_to_bf16 and self.dtype != "float16":
            raise ValueError(f"round_to_bf16 applies to dtype float16 only; dtype is {self.dtype}")
