"""Products of descriptors and their exponentials, by the fastest available operator of each processor.

The choice of an operator only depends on the processor and the number of threads, so a machine repeats its results to
the bit. `python -m benchmarks.matching_cpu` measures the rates behind these choices.
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
"""float32 represents 2^score, and sums of it, with full precision for scores within +-100."""


def as_float(tokens: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
    """Copy tokens to dense float32 memory; products of strided views of heads run at half the speed."""
    return tokens.float().contiguous()


def product(
    first: Float[Tensor, "first channel"], second: Float[Tensor, "second channel"]
) -> Float[Tensor, "first second"]:
    """Multiply every row of one dense float32 matrix with every row of another.

    On x86 CPUs oneDNN computes the product; on AMD processors it is up to 1.6 times as fast as the default library.
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
    """Multiply as `product` does, into reused memory if that is faster.

    The system clears fresh pages, which takes up to three tenths of the time of a product over 64 channels. The default
    library can write into given memory and oneDNN's operator cannot; with AVX2 the default library is faster overall.
    """
    if scratch.is_cuda or _AT_MOST_AVX2 or _ONEDNN_LINEAR is None:
        return torch.mm(first, second.T, out=scratch)
    return product(first, second)


@dataclass(frozen=True, slots=True)
class Exponential:
    """In-place exponentials of scores."""

    factor: float
    """Factor for one side of the products: their scale, times log2 e for powers of two."""
    bounded: bool
    """True if no score is large enough to overflow, so that the maximum need not be subtracted."""
    in_place: Callable[[Tensor], object]

    def raise_(self, scores: Float[Tensor, "first second"], dim: int) -> Float[Tensor, "_ _"] | None:
        """Replace scores by their exponentials; subtract the maximum along a dimension first unless they are bounded.

        Returns:
            The maximum that was subtracted; None if the scores are bounded.
        """
        largest = None if self.bounded else scores.amax(dim=dim, keepdim=True)
        self.in_place(scores if largest is None else scores.sub_(largest))
        return largest


def exponential_of(
    first: Float[Tensor, "*head _ channel"], second: Float[Tensor, "*head _ channel"], *, scale: float
) -> Exponential:
    """Choose the exponential for the scaled products of all rows of two matrices.

    Powers of two are up to three times as fast as torch's exp. On one thread with AVX2, OpenCV's exp is 1.6 times as
    fast again and as exact; it only gets bounded scores, because it treats infinities and NaN in its own way.
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
    """Check by the Cauchy-Schwarz inequality that no product of two rows can be large."""
    if not first.numel() or not second.numel():
        return True
    longest = [torch.linalg.vector_norm(rows, dim=-1).amax(dim=-1) for rows in (first, second)]
    return bool((longest[0] * longest[1]).amax() * (scale * LOG2_E) < _LARGEST_EXPONENT)
