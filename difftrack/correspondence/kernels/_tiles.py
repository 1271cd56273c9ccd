"""Tile sizes of the kernels, and code that all of them share."""
# Triton kernels take pointers and scalars that have no Python type.
# ruff: noqa: ANN001, ANN202, ANN401, SIM108
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "FULL_PRECISION",
    "TILES",
    "Tile",
    "Tiles",
    "kernel",
    "launch_options",
    "load_tokens",
    "readable",
    "tiles_for",
]


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of one program of a kernel."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of both kernels for descriptors of one kind."""

    normaliser: Tile
    mean: Tile


TILES = {
    64: Tiles(normaliser=Tile(128, 128, 8, 3), mean=Tile(64, 128, 4, 4)),
    128: Tiles(normaliser=Tile(64, 64, 4, 3), mean=Tile(64, 128, 4, 2)),
    256: Tiles(normaliser=Tile(64, 64, 4, 2), mean=Tile(64, 64, 4, 2)),
}
"""Largest number of channels per head -> tiles, in half precision; 64 and 128 are tuned on an H200."""

FULL_PRECISION = Tiles(normaliser=Tile(32, 32, 8, 2), mean=Tile(32, 32, 8, 2))
"""For float32, whose exact products keep their operands in registers."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: the function itself, which an import hook that checks types may have wrapped."""
    return triton.jit(inspect.unwrap(function))


@kernel
def load_tokens(pointers, token_mask, channel_mask, MASKED: tl.constexpr, RAGGED: tl.constexpr):
    """Load a tile of tokens; a mask costs time, so it is used only where tokens or channels end within the tile."""
    if MASKED or RAGGED:
        tile = tl.load(pointers, mask=token_mask & channel_mask, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


def readable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert tensors to one type, with contiguous channels."""
    dtype = tensors[0].dtype
    if any(tensor.dtype != dtype for tensor in tensors):
        dtype = torch.float32
    return tuple(tensor.to(dtype) if tensor.stride(-1) == 1 else tensor.to(dtype).contiguous() for tensor in tensors)


def tiles_for(tokens: Tensor) -> Tiles:
    if tokens.element_size() > 2:
        return FULL_PRECISION
    return next((tiles for channels, tiles in TILES.items() if tokens.shape[-1] <= channels), TILES[max(TILES)])


def launch_options(tokens: Tensor, tile: Tile) -> dict[str, Any]:
    channels = max(16, triton.next_power_of_2(tokens.shape[-1]))
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "CHANNELS": channels,
        "RAGGED": channels != tokens.shape[-1],
        "PRECISION": "ieee",
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
