"""How well descriptors compressed where it was measured."""

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
"""(dtype, codec) -> bytes before compression per stored byte, of values that have bfloat16's eight bits of mantissa."""

_FLOAT32_RATIO = 1.18
"""The same for float16 with blosc-zstd, of values that have all of float16's eleven bits."""


def recorded_ratio(params: StoreParams, *, computed_in: str) -> float:
    """Bytes before compression per stored byte to expect where nothing better is known.

    Args:
        params: How the store is written.
        computed_in: The backbone's dtype. What was computed in float32 or float16 has more mantissa to keep.

    Source:
        blosc-zstd: 16 units of the shipped backbone, float32 and rounded to bfloat16. Other codecs: synthetic values in
        the shape of CogVideoX-2B's (`python -m benchmarks.store`, docs/store.md).
    """
    ratio = _RATIOS.get((params.dtype, params.codec), 1.0)
    if params.dtype == "float16" and computed_in != "bfloat16" and not params.round_to_bf16:
        return min(ratio, _FLOAT32_RATIO)
    return ratio
