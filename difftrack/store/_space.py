"""How much a group will take, and whether there is room for it."""

import math

import numpy as np

from difftrack.store._errors import StoreError
from difftrack.store._files import StorePath, open_files
from difftrack.store._spec import DescriptorSpec, StoreParams, array_layouts

__all__ = ["check_space", "planned_bytes"]


def planned_bytes(spec: DescriptorSpec, params: StoreParams | None = None) -> int:
    """Bytes of a group's shards before compression, checksums and indices included; an upper bound in practice.

    What compression leaves depends on the values: docs/store.md has measured ratios.
    """
    unit = 0
    for layout in array_layouts(spec, params or StoreParams()):
        values = math.prod(layout.shard_shape) * np.dtype(layout.dtype).itemsize
        unit += values + 20 * layout.num_chunks + 4
    return unit * len(spec.units)


def check_space(root: StorePath, num_bytes: int, *, max_bytes: int | float) -> None:
    """Refuse work whose result would not fit.

    Args:
        root: Where the store lies or will lie.
        num_bytes: What is still to be written: planned less what is already there.
        max_bytes: The limit that params.yaml sets.

    Raises:
        StoreError: `num_bytes` exceeds the limit or the free space.
    """
    files = open_files(root)
    remedy = "keep fewer extract.layers, extract.steps or extract.descriptors"
    if num_bytes > max_bytes:
        raise StoreError(
            f"{files.path('')}: {num_bytes / 1e9:.3g} GB planned, extract.max_bytes allows {max_bytes / 1e9:.3g} GB;"
            f" {remedy}, or raise it"
        )
    free = files.free_bytes()
    if free is not None and num_bytes > free:
        raise StoreError(f"{files.path('')}: {num_bytes / 1e9:.3g} GB planned, {free / 1e9:.3g} GB free; {remedy}")
