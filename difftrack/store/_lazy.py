"""Open a group as an xarray dataset whose variables read shards when they are indexed."""

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from xarray.backends import BackendArray
from xarray.core import indexing

from difftrack.store._encodings import encoding_of
from difftrack.store._reader import GroupReader
from difftrack.store._schema import coordinates

__all__ = ["lazy_dataset"]

Index = int | np.integer | slice | np.ndarray
"""Index along one axis, as passed by xarray."""


class LazyEntry(BackendArray):
    """One entry, [step, layer, *unit]; indexing reads only the needed shards, and only one latent frame if possible."""

    def __init__(self, reader: GroupReader, entry: str) -> None:
        spec = reader.schema.spec
        self._reader, self._entry = reader, entry
        self.shape = (len(spec.steps), len(spec.layers), *spec.entry_shape(entry))
        self.dtype = np.dtype(encoding_of(reader.schema.params.dtype).read_as)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Float[np.ndarray, "..."]:
        support = indexing.IndexingSupport.OUTER
        values: np.ndarray = indexing.explicit_indexing_adapter(key, self.shape, support, self._read)
        return values

    def _read(self, key: tuple[Index, ...]) -> Float[np.ndarray, "..."]:
        steps, layers = (
            np.atleast_1d(np.arange(size)[index]) for size, index in zip(self.shape, key[:2], strict=False)
        )
        unit_key = key[2:]
        shape = _along_axes(np.broadcast_to(np.zeros((), bool), self.shape[2:]), unit_key).shape
        values = np.empty((len(steps), len(layers), *shape), self.dtype)
        if values.size:
            for row, step in enumerate(steps.tolist()):
                for col, layer in enumerate(layers.tolist()):
                    values[row, col] = self._read_unit(step, layer, unit_key)
        squeezed = tuple(axis for axis in (0, 1) if isinstance(key[axis], int | np.integer))
        return values.squeeze(squeezed)

    def _read_unit(self, step: int, layer: int, key: tuple[Index, ...]) -> Float[np.ndarray, "..."]:
        frame = key[1]
        if self._entry != "text_key" and isinstance(frame, int | np.integer):
            frame = int(frame) % self.shape[3]
            return _along_axes(self._reader.read(step, layer, self._entry, frame), (key[0], *key[2:]))
        return _along_axes(self._reader.read(step, layer, self._entry), key)


def lazy_dataset(reader: GroupReader) -> xr.Dataset:
    """See `Store.dataset`."""
    spec, schema = reader.schema.spec, reader.schema
    labels = coordinates(spec)
    mask = labels.pop("text_mask", None)
    variables: dict[str, Any] = {
        entry: xr.Variable(
            ("step", "layer", *schema.layouts[entry].axes),
            indexing.LazilyIndexedArray(LazyEntry(reader, entry)),
            encoding={"dtype": "float32"},  # NetCDF has no float16, and the values do not change
        )
        for entry in spec.entries
    }
    if mask is not None:
        variables["text_mask"] = mask
    attributes = {
        "clip_size": list(spec.clip_size),
        "size": list(spec.size),
        "stride_px": spec.grid.stride_px,
        "temporal_stride": spec.grid.temporal_stride,
        "stored_as": schema.params.dtype,
        "fingerprint": schema.fingerprint,
    }
    return xr.Dataset(variables, coords=labels, attrs=attributes)


def _along_axes(values: np.ndarray, key: tuple[Index, ...]) -> np.ndarray:
    """Index every axis separately, starting with the last, because an integer drops its axis."""
    for axis in reversed(range(len(key))):
        values = values[(slice(None),) * axis + (key[axis],)]
    return values
