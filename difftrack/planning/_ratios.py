"""Recorded compression ratios of descriptors."""

from collections.abc import Mapping
from types import MappingProxyType

from difftrack.store import StoreParams

__all__ = ["recorded_ratio"]

_RATIOS: Mapping[tuple[str, str], float] = MappingProxyType({
    ("float16", "blosc-zstd"): 1.48,
    ("float16", "blosc-lz4"): 1.30,
    ("float16", "zstd"): 1.29,
    ("bfloat16", "blosc-zstd"): 1.46,
    ("bfloat16", "blosc-lz4"): 1.24,
    ("bfloat16", "zstd"): 1.27,
    ("int8", "blosc-zstd"): 1.08,
})  # fmt: skip
"""(dtype, codec) -> bytes before compression per stored byte, for values with bfloat16's mantissa of 8 bits."""

_FLOAT32_RATIO = 1.18
"""The same for float16 with blosc-zstd, for values with float16's full mantissa of 11 bits."""


def recorded_ratio(params: StoreParams, *, computed_in: str) -> float:
    """Return the recorded compression ratio, bytes before compression per stored byte, if nothing better is known.

    Args:
        params: Format of the store.
        computed_in: The backbone's dtype. Values computed in float32 or float16 have more mantissa bits to store.

    Source:
        blosc-zstd: 16 units of the shipped backbone, float32 and rounded to bfloat16. Other codecs: synthetic values
        with CogVideoX-2B's shapes (`python -m benchmarks.store`, docs/store.md).
    """
    ratio = _RATIOS.get((params.dtype, params.codec), 1.0)
    if params.dtype == "float16" and computed_in != "bfloat16" and not params.round_to_bf16:
        return min(ratio, _FLOAT32_RATIO)
    return ratio
