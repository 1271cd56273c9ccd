"""Estimate the size and compression of groups, and check the free space."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
from jaxtyping import Num

from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files, StorePath, open_files
from difftrack.store._group_metadata import join
from difftrack.store._params import StoreParams
from difftrack.store._schema import SCHEMA, read_schema
from difftrack.store._spec import ArrayLayout, DescriptorSpec, array_layouts
from difftrack.store._verify import group_names

__all__ = ["check_space", "free_bytes", "measured_ratio", "planned_bytes", "stored_bytes", "trial_encoding"]

SAMPLED_SHARDS = 64
"""Number of shards used to measure a ratio; layers differ by about a tenth."""


def planned_bytes(spec: DescriptorSpec, params: StoreParams | None = None) -> int:
    """Return the size of a group's shards before compression, with checksums and indices; in practice an upper bound.

    The compressed size depends on the values: see `measured_ratio`, and docs/store.md for recorded ratios.
    """
    return sum(map(_raw_bytes, array_layouts(spec, params or StoreParams()))) * len(spec.units)


def free_bytes(root: StorePath) -> int | None:
    """Return the free space at a store's location; None where that is undefined, as in a bucket."""
    return open_files(root).free_bytes()


def stored_bytes(root: StorePath, groups: Iterable[str] = ("",)) -> int:
    """Return the size of all files in a store, or in some of its groups; 0 if there are none."""
    files = open_files(root)
    return sum(files.size(group) for group in groups)


def measured_ratio(root: StorePath, params: StoreParams) -> float | None:
    """Measure the compression ratio, bytes before compression per stored byte, of a store's shards.

    Args:
        root: The store.
        params: Only groups stored with these params count.

    Returns:
        The ratio; None if the store has no such shard.
    """
    files = open_files(root)
    sizes = list(islice(_shard_sizes(files, params), SAMPLED_SHARDS))
    return sum(raw for raw, _ in sizes) / sum(stored for _, stored in sizes) if sizes else None


def trial_encoding(
    spec: DescriptorSpec, params: StoreParams, values: Mapping[str, Num[np.ndarray, "..."]]
) -> tuple[float, float]:
    """Encode one unit without writing it, to measure compression.

    Args:
        spec: Spec of the group.
        params: Format of the store.
        values: See `GroupWriter.write`.

    Returns:
        Bytes before compression per stored byte, and bytes before compression that one thread encodes per second.

    Raises:
        ValueError: a value cannot be stored in this format.
    """
    from difftrack.store._encoder import encode_shard
    from difftrack.store._encodings import encoding_of

    layouts = {layout.name: layout for layout in array_layouts(spec, params)}
    size = 0
    started = time.perf_counter()
    for entry in spec.entries:
        codes, scale = encoding_of(params.dtype).encode(values[entry], round_to_bf16=params.round_to_bf16)
        size += sum(map(len, encode_shard(layouts[entry], codes)))
        if scale is not None:
            size += sum(map(len, encode_shard(layouts[f"{entry}_scale"], scale)))
    raw = sum(map(_raw_bytes, layouts.values()))
    return raw / size, raw / (time.perf_counter() - started)


def check_space(
    root: StorePath, num_bytes: int, *, max_bytes: int | float, expected_bytes: float | None = None
) -> None:
    """Check that planned data fits.

    Args:
        root: Location of the store.
        num_bytes: Planned bytes before compression.
        max_bytes: The limit in params.yaml.
        expected_bytes: Expected bytes on disk; `num_bytes` by default.

    Raises:
        StoreError: `num_bytes` exceeds the limit, or the expected bytes exceed the free space.
    """
    files = open_files(root)
    remedy = "keep fewer extract.layers, extract.steps or extract.descriptors"
    if num_bytes > max_bytes:
        raise StoreError(
            f"{files.path('')}: {num_bytes / 1e9:.3g} GB planned, extract.max_bytes allows {max_bytes / 1e9:.3g} GB;"
            f" {remedy}, or raise the limit"
        )
    free, expected = files.free_bytes(), num_bytes if expected_bytes is None else expected_bytes
    if free is not None and expected > free:
        raise StoreError(f"{files.path('')}: {expected / 1e9:.3g} GB planned, but {free / 1e9:.3g} GB free; {remedy}")


def _raw_bytes(layout: ArrayLayout) -> int:
    """Return the size of one shard without compression."""
    return math.prod(layout.shard_shape) * np.dtype(layout.dtype).itemsize + 20 * layout.num_chunks + 4


def _shard_sizes(files: Files, params: StoreParams) -> Iterator[tuple[int, int]]:
    """Yield the bytes before compression and the stored bytes of each existing shard."""
    for group in group_names(files, SCHEMA):
        try:
            found = read_schema(files, group)
        except StoreError:  # only readable groups are measured
            continue
        if found is None or found[1].params != params:
            continue
        schema = found[1]
        for unit in schema.spec.units:
            for layout in schema.layouts.values():
                stored = files.size(join(group, layout.shard_key(*schema.indices(*unit))))
                if stored:
                    yield _raw_bytes(layout), stored
