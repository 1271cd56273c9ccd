"""What the kernels for Hopper GPUs share.

They are written in Gluon, the layer of Triton that names layouts, barriers and warp groups: matrix products read shared
memory, which the tensor memory accelerator fills while the warps compute the previous tile.
"""
# Gluon kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001, ANN202, ANN401
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

__all__ = ["hopper_kernel", "load_tile", "token_tiles"]


def hopper_kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: the function itself, which an import hook that checks types may have wrapped."""
    return gluon.jit(inspect.unwrap(function))


@hopper_kernel
def load_tile(tokens, head, frame, token, ready, tile, wanted):
    """Start loading a tile of tokens, zero beyond the last; its barrier signals completion."""
    mbarrier.expect(ready, tokens.block_type.nbytes, pred=wanted)
    tma.async_copy_global_to_shared(tokens, [head, frame, token, 0], ready, tile, pred=wanted)


def token_tiles(tokens: Tensor, count: int) -> TensorDescriptor:
    """Describe tiles for the tensor memory accelerator: a number of tokens of one head and frame, all channels."""
    channels = 64 if tokens.shape[-1] <= 64 else 128
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    return TensorDescriptor(tokens, list(tokens.shape), list(tokens.stride()), [1, 1, count, channels], layout)
