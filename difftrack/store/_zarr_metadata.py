"""Build all files of a group except its header and its shards in memory, with zarr.

zarr passes each call through its event loop, twenty calls for a group, which is slow while a GPU waits for the next
clip. Groups that differ only in their attributes, such as those of many clips, are therefore built once.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Num
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from difftrack.store._codecs import zarr_codecs
from difftrack.store._spec import ArrayLayout, Separator

__all__ = ["create_array", "small_files"]


def create_array(
    group: Any,  # noqa: ANN401 - zarr has no usable types
    layout: ArrayLayout,
    *,
    num_units: tuple[int, int],
    attributes: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    """Create the zarr array of a layout, without values."""
    return group.create_array(
        layout.name,
        shape=(*num_units, *layout.shape),
        dtype=layout.dtype,
        chunks=(1, 1, *layout.chunk_shape),
        shards=(1, 1, *layout.shard_shape),
        compressors=zarr_codecs(layout.codec, layout.level, np.dtype(layout.dtype).itemsize),
        fill_value=layout.fill_value,
        dimension_names=["step", "layer", *layout.axes],
        attributes=dict(attributes),
        chunk_key_encoding={"name": "default", "separator": layout.separator},
        config={"write_empty_chunks": True},  # no chunk equals the fill value, so zarr need not compare
    )


def small_files(
    layouts: Iterable[ArrayLayout],
    coordinates: Mapping[str, tuple[str, Num[np.ndarray, " label"] | Bool[np.ndarray, " label"]]],
    *,
    num_units: tuple[int, int],
    attributes: Mapping[str, Any],
    separator: Separator,
) -> dict[str, bytes]:
    """Build all files of a group except its header and its shards, by key in the group."""
    layouts = tuple(layouts)
    labels = tuple((name, axis, values.dtype.str, values.tobytes()) for name, (axis, values) in coordinates.items())
    files = dict(_files_without_attributes(layouts, labels, num_units, separator))
    for layout in layouts:
        key = f"{layout.name}/zarr.json"
        metadata = json.loads(files[key])
        metadata["attributes"] = dict(attributes)
        files[key] = json.dumps(metadata, indent=2).encode()
    return files


@lru_cache(maxsize=16)
def _files_without_attributes(
    layouts: tuple[ArrayLayout, ...],
    coordinates: tuple[tuple[str, str, str, bytes], ...],
    num_units: tuple[int, int],
    separator: Separator,
) -> Mapping[str, bytes]:
    content: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(content), zarr_format=3)
    for name, axis, dtype, labels in coordinates:
        values = np.frombuffer(labels, dtype)
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=values.shape,
            compressors=[Crc32cCodec()],
            fill_value=0,
            dimension_names=[axis],
            chunk_key_encoding={"name": "default", "separator": separator},
            config={"write_empty_chunks": True},
        )
        array[:] = values
    for layout in layouts:
        create_array(group, layout, num_units=num_units, attributes={})
    return {key: bytes(value.to_bytes()) for key, value in content.items() if key != "zarr.json"}
