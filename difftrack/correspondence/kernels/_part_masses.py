"""Shares of the parts of a row in its softmax."""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence.kernels._tiles import kernel

__all__ = ["part_masses"]


@kernel
def _masses_kernel(
    sums,
    whole,
    mass,
    num_heads,
    num_points,
    NUM_PARTS: tl.constexpr,
    POINTS: tl.constexpr,
) -> None:
    """whole[head, i] = log2 sum_part 2^sums[part, head, i], and mass[head, part, i] = 2^(sums - whole)."""
    head = tl.program_id(1)
    i = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    inside = i < num_points
    sums += head * num_points + i
    largest = tl.full([POINTS], float("-inf"), tl.float32)
    total = tl.zeros([POINTS], tl.float32)
    for part in range(NUM_PARTS):
        value = tl.load(sums + part * num_heads * num_points, mask=inside, other=0.0)
        larger = tl.maximum(largest, value)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(largest - base) + tl.exp2(value - base)
        largest = larger
    normaliser = largest + tl.log2(total)
    tl.store(whole + head * num_points + i, normaliser, mask=inside)
    mass += head * NUM_PARTS * num_points + i
    for part in range(NUM_PARTS):
        value = tl.load(sums + part * num_heads * num_points, mask=inside, other=0.0)
        tl.store(mass + part * num_points, tl.exp2(value - normaliser), mask=inside)


def part_masses(
    sums: Float[Tensor, "part head point"],
) -> tuple[Float[Tensor, "head point"], Float[Tensor, "head part point"]]:
    """Normaliser of the whole row and the share of every part, from the parts' own normalisers."""
    num_parts, num_heads, num_points = sums.shape
    whole = torch.empty(num_heads, num_points, device=sums.device)
    mass = torch.empty(num_heads, num_parts, num_points, device=sums.device)
    block = 128
    _masses_kernel[(triton.cdiv(num_points, block), num_heads)](
        sums, whole, mass, num_heads, num_points, NUM_PARTS=num_parts, POINTS=block
    )
    return whole, mass
