"""Names of variants, importable without torch."""

from typing import Literal

__all__ = ["CutVariant"]

CutVariant = Literal["zeroed", "masked"]
"""Whether weights between frames are set to zero after the softmax, or their scores to -inf before it."""
