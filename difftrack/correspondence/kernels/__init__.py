"""Matching and attention on CUDA: one fused pass for the normalisers of rows, one for the mean over heads.

Imported only when it is chosen, so machines without Triton never load it. Scores live in registers; the only large
array written is the result. Descriptors enter the matrix products in their own type; sums are float32.
"""

from difftrack.correspondence.kernels._attention_parts import attention_parts_triton
from difftrack.correspondence.kernels._pair_rows import pair_rows_triton
from difftrack.correspondence.kernels._read_out import read_triton

__all__ = ["attention_parts_triton", "pair_rows_triton", "read_triton"]
