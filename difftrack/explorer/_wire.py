"""Encodes answers with arrays as one binary message: a JSON header, then the arrays' bytes.

    uint32 length of the header, little-endian | header, UTF-8, padded with blanks to a multiple of 4 | arrays

`header["arrays"]` gives name -> {dtype, shape, offset}; offsets count from the end of the header, in bytes.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16

__all__ = ["finite", "pack", "quantised"]

FULL_SCALE = 65535
"""The quantised value of a map's largest probability."""


def quantised(
    maps: Float[np.ndarray, "*axes row col"],
) -> tuple[UInt16[np.ndarray, "*axes row col"], Float[np.ndarray, "*axes"]]:
    """Scale every map by its largest value and round to 16 bits, which resolves 4.8 decades below the largest.

    Returns:
        The integers, and the value of each map that `FULL_SCALE` stands for.
    """
    largest = maps.max(axis=(-2, -1))
    scale = np.divide(FULL_SCALE, largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(maps * scale[..., None, None]).astype(np.uint16), largest


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Join a header and arrays in one message."""
    described, offset = {}, 0
    for name, array in arrays.items():
        described[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "offset": offset}
        offset += math.ceil(array.nbytes / 4) * 4
    text = json.dumps(finite({**header, "arrays": described}), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    parts = [struct.pack("<I", len(text)), text]
    for array in arrays.values():
        parts += [np.ascontiguousarray(array).tobytes(), b"\0" * (-array.nbytes % 4)]
    return b"".join(parts)


def finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Replace NaN and infinity with null in lists and mappings of any depth: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value
