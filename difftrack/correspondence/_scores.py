"""Scores of tokens, which are products of their descriptors, and the exponentials of these, at a processor's best rate.

Every choice depends on the processor and on the number of threads alone, so that a machine repeats its results to the
bit. `python -m benchmarks.matching_cpu` measures what they rest on.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LOG2_E", "Exponential", "as_float", "exponential_of", "product", "product_into"]

LOG2_E = math.log2(math.e)

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_ON_X86 = platform.machine() in ("x86_64", "AMD64")
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _HAS_ONEDNN and _ON_X86 else None
_AT_MOST_AVX2 = _ON_X86 and torch.backends.cpu.get_cpu_capability() == "AVX2"

_LARGEST_EXPONENT = 100.0
"""Scores within +-100 become powers of two that, and whose sums, float32 holds with full precision."""


def as_float(tokens: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
    """Lay tokens out densely in float32: heads that are views into wider rows make matrix products half as fast."""
    return tokens.float().contiguous()


def product(
    first: Float[Tensor, "first channel"], second: Float[Tensor, "second channel"]
) -> Float[Tensor, "first second"]:
    """Multiply every row of one dense float32 matrix with every row of another.

    On x86 CPUs by oneDNN, whose product is up to 1.6 times as fast as the default library's on those of one maker.
    """
    if _ONEDNN_LINEAR is None or first.is_cuda or not len(first) or not len(second):
        return first @ second.T
    found: Tensor = _ONEDNN_LINEAR(first, second, None, "none", [], "")
    return found


def product_into(
    scratch: Float[Tensor, "first second"],
    first: Float[Tensor, "first channel"],
    second: Float[Tensor, "second channel"],
) -> Float[Tensor, "first second"]:
    """Multiply as `product` does, where it is the faster way into memory that is used again.

    The system clears fresh pages, which takes up to three tenths of the time of a product over 64 channels. The default
    library writes where it is told to and oneDNN's operator does not; with AVX2 that decides.
    """
    if scratch.is_cuda or _AT_MOST_AVX2 or _ONEDNN_LINEAR is None:
        return torch.mm(first, second.T, out=scratch)
    return product(first, second)


@dataclass(frozen=True, slots=True)
class Exponential:
    """How scores become their exponentials, in place."""

    factor: float
    """What one side of the products is multiplied by first: their scale, times log2 e for a power of two."""
    bounded: bool
    """No score is so large that its largest must be taken off."""
    in_place: Callable[[Tensor], object]

    def raise_(self, scores: Float[Tensor, "first second"], dim: int) -> Float[Tensor, "_ _"] | None:
        """Raise scores, unless bounded less their largest along a dimension, which is given then."""
        largest = None if self.bounded else scores.amax(dim=dim, keepdim=True)
        self.in_place(scores if largest is None else scores.sub_(largest))
        return largest


def exponential_of(
    first: Float[Tensor, "*head _ channel"], second: Float[Tensor, "*head _ channel"], *, scale: float
) -> Exponential:
    """Choose for the scaled products of all rows of one with all rows of the other.

    Powers of two are up to three times as fast as torch's exp. On one thread with AVX2, OpenCV's exp is 1.6 times as
    fast as those and as exact; what it makes of numbers that are none is its own, so that it gets bounded ones alone.
    """
    bounded = _bounded(first, second, scale)
    if bounded and _AT_MOST_AVX2 and not first.is_cuda and torch.get_num_threads() == 1:
        return Exponential(scale, bounded, _exp_)
    return Exponential(scale * LOG2_E, bounded, torch.exp2_)


def _exp_(scores: Tensor) -> None:
    import cv2  # few processors need it

    array = scores.numpy()
    if array.size:
        cv2.exp(array, array)


def _bounded(first: Float[Tensor, "*head _ channel"], second: Float[Tensor, "*head _ channel"], scale: float) -> bool:
    """Say whether no product of a row of one with a row of the other can be large (Cauchy-Schwarz)."""
    if not first.numel() or not second.numel():
        return True
    longest = [torch.linalg.vector_norm(rows, dim=-1).amax(dim=-1) for rows in (first, second)]
    return bool((longest[0] * longest[1]).amax() * (scale * LOG2_E) < _LARGEST_EXPONENT)
