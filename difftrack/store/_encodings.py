"""Convert between descriptor values and stored numbers.

| dtype | stored as | bytes per value | loss |
| --- | --- | --- | --- |
| float16 | float16 | 2 | none for bfloat16 input with 2^-17 <= abs(x) <= 65504 |
| bfloat16 | uint16, the upper half of the float32 bits | 2 | none for bfloat16 input |
| int8 | int8 and one float16 scale per (head, token) | 1 + 2 / channels | half a scale step per value |

Values that the stored type cannot represent are refused; they are never clipped or turned into infinities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num, UInt16

from difftrack.store._params import DTypeName

__all__ = ["Encoding", "encoding_of", "fills_exponent"]

Values = Float[np.ndarray, "*unit"] | UInt16[np.ndarray, "*unit"]
"""float16, float32 or float64 numbers, or uint16 with the bits of bfloat16 (`tensor.view(torch.uint16)`)."""

_BLOCK = 1 << 18
"""Number of values converted at once, so that temporaries stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One stored dtype; see the table in this module."""

    name: DTypeName
    stored: str
    """Numpy dtype of the stored array."""
    fill_value: float | int
    """zarr's value for unwritten chunks; no written value equals it."""
    largest: float
    """Largest absolute value that can be stored."""

    @property
    def has_scale(self) -> bool:
        """Whether a second array contains one scale per (head, token)."""
        return self.name == "int8"

    @property
    def read_as(self) -> str:
        """Dtype of the values that a reader returns: float16 for float16, float32 for the others."""
        return "float16" if self.name == "float16" else "float32"

    def encode(
        self, values: Values, *, round_to_bf16: bool = False
    ) -> tuple[Num[np.ndarray, "*unit"], Float[np.ndarray, "..."] | None]:
        """Convert values to stored numbers and, for int8, scales.

        Args:
            values: See `Values`.
            round_to_bf16: Round to bfloat16 before the cast to float16; the dropped mantissa bits are incompressible.
                No effect on the other dtypes.

        Raises:
            ValueError: a value is not finite, or its absolute value exceeds `largest`.
        """
        if self.name == "bfloat16":
            codes = values if values.dtype == np.uint16 else _bf16_bits(values)
            self._refuse_exponent(values, codes, 0x7F80)
            return codes, None
        numbers = _bf16_numbers(values) if values.dtype == np.uint16 else values
        if self.name == "int8":
            return self._encode_int8(numbers)
        if round_to_bf16 and values.dtype != np.uint16:
            numbers = _bf16_numbers(_bf16_bits(numbers))
        with np.errstate(over="ignore"):
            halves = np.ascontiguousarray(numbers, np.float16)
        self._refuse_exponent(values, halves.view(np.uint16), 0x7C00)
        return halves, None

    def decode(
        self, codes: Num[np.ndarray, "*unit"], scale: Float[np.ndarray, "..."] | None
    ) -> Float[np.ndarray, "*unit"]:
        """Convert stored numbers to values of dtype `read_as`."""
        if self.name == "bfloat16":
            return _bf16_numbers(codes)
        if scale is not None:
            values = np.empty(codes.shape, np.float32)
            for head_values, head_codes, head_scale in zip(values, codes, scale.astype(np.float32), strict=True):
                np.multiply(head_codes, head_scale[..., None], out=head_values)
            return values
        return codes

    def _encode_int8(
        self, numbers: Float[np.ndarray, "*unit"]
    ) -> tuple[Num[np.ndarray, "*unit"], Float[np.ndarray, "..."]]:
        codes = np.empty(numbers.shape, np.int8)
        scales = np.empty(numbers.shape[:-1], np.float16)
        for head, part in enumerate(numbers):
            with np.errstate(over="ignore"):
                values = part.astype(np.float32)
            peak = np.maximum(values.max(axis=-1), -values.min(axis=-1))
            if not np.all(peak <= self.largest):
                self._refuse(numbers)
            scale = (peak / 127).astype(np.float16)
            # Round up, so that no code exceeds 127 and no nonzero token gets scale 0.
            scale = np.where(scale.astype(np.float32) * 127 < peak, np.nextafter(scale, np.float16(np.inf)), scale)
            values /= np.where(scale == 0, 1, scale).astype(np.float32)[..., None]
            codes[head] = np.rint(values, out=values)
            scales[head] = scale
        return codes, scales

    def _refuse_exponent(self, values: Values, bits: Num[np.ndarray, "*unit"], exponent: int) -> None:
        if fills_exponent(bits, exponent):
            self._refuse(_bf16_numbers(values) if values.dtype == np.uint16 else values)

    def _refuse(self, numbers: Float[np.ndarray, "*unit"]) -> None:
        finite = np.isfinite(numbers)
        if not finite.all():
            raise ValueError(f"{int(np.sum(~finite))} of {numbers.size} values are not finite")
        worst = float(np.abs(numbers).max())
        raise ValueError(
            f"the value {worst:g} exceeds the largest value of {self.name}, {self.largest:g}; store as bfloat16"
        )


ENCODINGS = {
    "float16": Encoding("float16", "float16", float("nan"), 65504.0),
    "bfloat16": Encoding("bfloat16", "uint16", 0x7FFF, float(np.uint32(0x7F7F0000).view(np.float32))),
    "int8": Encoding("int8", "int8", -128, 127 * 65504.0),
}


def encoding_of(name: DTypeName) -> Encoding:
    """Return the encoding of a `dtype` param."""
    return ENCODINGS[name]


def fills_exponent(bits: UInt16[np.ndarray, "..."], exponent: int) -> bool:
    """Whether any number has all exponent bits set, which means infinity or NaN.

    The maximum shows it: of the bits read as int16 for positive numbers, and as uint16 for negative ones. Block by
    block, this takes a third of the time of a mask, and a twentieth of the time of `np.isfinite` on float16.

    Args:
        bits: Bits of float16 or bfloat16 numbers.
        exponent: Mask of the format's exponent bits, without the sign: 0x7C00 or 0x7F80.
    """
    flat = bits.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if block.view(np.int16).max() >= exponent or block.max() >= exponent | 0x8000:
            return True
    return False


def _bf16_bits(values: Float[np.ndarray, "*unit"]) -> UInt16[np.ndarray, "*unit"]:
    """Round to bfloat16 (nearest even) and return the bits; finite values outside the range become infinite."""
    flat = np.ascontiguousarray(values).reshape(-1)
    bits = np.empty(flat.size, np.uint16)
    with np.errstate(over="ignore"):
        for start in range(0, flat.size, _BLOCK):
            words = flat[start : start + _BLOCK].astype(np.float32).view(np.uint32)
            nan = np.isnan(words.view(np.float32))
            words += 0x7FFF + ((words >> 16) & 1)
            words >>= 16
            words[nan] = 0x7FC0
            bits[start : start + _BLOCK] = words
    return bits.reshape(values.shape)


def _bf16_numbers(bits: UInt16[np.ndarray, "*unit"]) -> Float[np.ndarray, "*unit"]:
    numbers = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=numbers, dtype=np.uint32)
    return numbers.view(np.float32)
