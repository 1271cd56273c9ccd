"""Export a part of one group to a file, and import it into a store.

| file | contents | opened by |
| --- | --- | --- |
| `.zarr` | a store with only this group, including checksums | `open_store`, xarray and zarr |
| `.safetensors` | one tensor per entry, [step, layer, *unit], float16 or float32 | safetensors, with or without torch |
| `.nc` | the same as float32 variables with labels (NetCDF 3, which has no float16) | xarray, Matlab, R |

Each file contains the whole header: spec, params, and how the values were made. A part equals the group that an
extraction of only these steps, layers, heads and kinds would write, and an import restores it bit for bit.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from jaxtyping import Float

from difftrack.documents import parse_json
from difftrack.params import ParamsError, parse
from difftrack.store._encodings import encoding_of
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import StorePath
from difftrack.store._groups import stored_group
from difftrack.store._params import StoreParams
from difftrack.store._reader import Store, open_store
from difftrack.store._spec import DescriptorSpec
from difftrack.store._writer import create_group
from difftrack.text_tokens import TextTokens

__all__ = ["FORMATS", "export_group", "import_group", "part_bytes"]

FORMATS = (".nc", ".zarr", ".safetensors")
"""File suffixes that `export_group` supports."""

MAX_NETCDF_BYTES = (1 << 31) - 4
"""Maximum size of a NetCDF 3 variable in bytes."""

_KEY = "difftrack"
"""Attribute or metadata entry that contains the header as JSON."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Part:
    """The header of an exported file."""

    version: int
    group: str
    spec: DescriptorSpec
    params: StoreParams
    made_by: Mapping[str, Any] | None = None
    text: Mapping[str, Any] | None = None

    def to_text(self) -> str:
        """Return the header as JSON; the same part gives the same text."""
        content = {
            "version": self.version,
            "group": self.group,
            "spec": self.spec.to_json(),
            "params": asdict(self.params),
            "made_by": self.made_by,
            **({} if self.text is None else {"text": self.text}),
        }
        return json.dumps(content)

    @property
    def words(self) -> TextTokens | None:
        """Words of the text tokens, if the group has them."""
        return None if self.text is None else TextTokens.from_json(self.text)

    @classmethod
    def from_text(cls, text: object, file: Path) -> "_Part":
        """Parse a header.

        Raises:
            StoreError: the text is not a header, or has another version.
        """
        expected = "expected a file from `difftrack export`"
        if not isinstance(text, str):
            raise StoreError(f"{file} contains no header of a group; {expected}")
        try:
            part = parse(cls, parse_json(text.encode()), "header", file=file)
            _ = part.words
        except (ParamsError, ValueError) as error:
            raise StoreError(f"{file} contains a damaged header: {error}; {expected}") from error
        if part.version != _VERSION:
            raise StoreError(f"{file} has version {part.version}; this program reads version {_VERSION}")
        return part


def part_bytes(spec: DescriptorSpec, suffix: str) -> int:
    """Return the size of a part's values in a file with this suffix, before compression."""
    width = 4 if suffix == ".nc" else 2
    return len(spec.units) * sum(int(np.prod(spec.entry_shape(entry))) * width for entry in spec.entries)


def export_group(
    store: Store,
    group: str,
    file: StorePath,
    *,
    steps: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    kinds: Sequence[str] | None = None,
    force: bool = False,
) -> DescriptorSpec:
    """Export a part of a group to a file or a zarr folder.

    Args:
        store: The store.
        group: Name of the group, from `clip_group`.
        file: Target path, ending in `.nc`, `.zarr` or `.safetensors`.
        steps: Steps to export, in the group's order; None exports all.
        layers: Layers to export; None exports all.
        heads: Heads to export; None exports all.
        kinds: Kinds to export (query, key, feature); None exports all.
        force: Replace an existing file; a folder is never replaced.

    Returns:
        The spec of the exported part.

    Raises:
        StoreError: the group is unknown, damaged or lacks a requested part, the suffix is unsupported, the target
            exists, or the part is too large for the format.
    """
    target = Path(file)
    if target.suffix not in FORMATS:
        raise StoreError(f"{target} has the suffix {target.suffix or 'none'}; use one of {', '.join(FORMATS)}")
    if target.exists() and (target.is_dir() or not force):
        raise StoreError(f"{target} already exists; choose another file{'' if target.is_dir() else ', or use --force'}")
    whole = store.spec(group)
    spec = _narrowed(whole, group, steps=steps, layers=layers, heads=heads, kinds=kinds)
    part = _Part(_VERSION, group, spec, store.params(group), **_origin(store, group, with_text=bool(spec.text_mask)))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".zarr":
        _write_store(target, part, _units(store, group, whole, spec))
        return spec
    _check_memory(target, part_bytes(spec, target.suffix))
    with _atomic_write(target) as partial:
        (_write_netcdf if target.suffix == ".nc" else _write_safetensors)(
            partial, part, _stacked(store, group, whole, spec)
        )
    return spec


def import_group(file: StorePath, root: StorePath, *, group: str | None = None, force: bool = False) -> str:
    """Import a file from `export_group` into a store as a group.

    Args:
        file: The exported file or zarr folder.
        root: The store; created if missing.
        group: Name of the group in the store; its original name by default.
        force: Replace an existing group with other contents.

    Returns:
        The group's name.

    Raises:
        StoreError: the file is not from `export_group`, or is damaged, or the store contains another group of that
            name.
    """
    source = Path(file)
    if source.suffix not in FORMATS:
        raise StoreError(f"{source} has the suffix {source.suffix or 'none'}; use one of {', '.join(FORMATS)}")
    if not source.exists():
        raise StoreError(f"{source} does not exist")
    if source.suffix == ".zarr":
        part, units = _read_store(source)
    else:
        part, values = (_read_netcdf if source.suffix == ".nc" else _read_safetensors)(source)
        units = _unstacked(source, part, values)
    name = group or part.group
    with create_group(
        root, name, part.spec, params=part.params, made_by=part.made_by, text=part.words, replace=force, wait_s=0.0
    ) as writer:
        missing = set(writer.missing())
        for (step, layer), unit_values in units:
            if (step, layer) in missing:
                _check_exact(source, part, step, layer, unit_values)
                writer.write(step, layer, unit_values)
        writer.finish()
    return name


Unit = tuple[tuple[int, int], dict[str, Float[np.ndarray, "..."]]]
"""(step, layer), and the values of each entry."""


def _narrowed(
    spec: DescriptorSpec,
    group: str,
    *,
    steps: Sequence[int] | None,
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    kinds: Sequence[str] | None,
) -> DescriptorSpec:
    """Return the spec of a part; labels keep the group's order."""
    chosen: dict[str, Any] = {}
    for name, requested in (("steps", steps), ("layers", layers), ("heads", heads), ("kinds", kinds)):
        available = getattr(spec, name)
        if requested is None:
            continue
        if missing := [label for label in requested if label not in available]:
            raise StoreError(f"{group} has no {name[:-1]} {missing[0]}; there are {', '.join(map(str, available))}")
        chosen[name] = tuple(label for label in available if label in requested)
    if "cross_query" in spec.kinds and "cross_query" not in chosen.get("kinds", spec.kinds):
        chosen["text_mask"] = ()  # its keys belong only to the cross-attention's queries
    if "steps" in chosen:
        chosen["timesteps"] = tuple(spec.timesteps[spec.steps.index(step)] for step in chosen["steps"])
    try:
        return replace(spec, **chosen)
    except ValueError as error:
        raise StoreError(f"{group}: {error}") from error


def _check_memory(target: Path, num_bytes: int) -> None:
    """Check that a file that is built in memory needs at most half of the free memory."""
    import psutil

    free = psutil.virtual_memory().available
    if num_bytes > free // 2:
        raise StoreError(
            f"{target} needs {num_bytes / 1e9:.1f} GB in memory, of which {free / 1e9:.1f} GB are free; "
            "export fewer steps, layers or heads, or export to .zarr, which is written unit by unit"
        )


def _origin(store: Store, group: str, *, with_text: bool = True) -> dict[str, Any]:
    """Return the provenance and the words from the group's header."""
    found = stored_group(store.root, group)
    names = ("made_by", "text") if with_text else ("made_by",)
    return {name: None if found is None else found.contents.get(name) for name in names}


def _units(store: Store, group: str, whole: DescriptorSpec, spec: DescriptorSpec) -> Iterator[Unit]:
    """Yield the units of a part."""
    heads = [whole.heads.index(head) for head in spec.heads]
    for step, layer in spec.units:
        read = {entry: store.sel(clip=group, step=step, layer=layer, kind=entry) for entry in spec.entries}
        yield (step, layer), read if spec.heads == whole.heads else {name: read[name][heads] for name in read}


def _stacked(
    store: Store, group: str, whole: DescriptorSpec, spec: DescriptorSpec
) -> dict[str, Float[np.ndarray, "..."]]:
    """Read a part into memory: entry -> [step, layer, *unit]."""
    found: dict[str, Float[np.ndarray, ...]] = {}
    for number, (_, values) in enumerate(_units(store, group, whole, spec)):
        for entry, unit_values in values.items():
            if entry not in found:
                found[entry] = np.empty((len(spec.units), *unit_values.shape), unit_values.dtype)
            found[entry][number] = unit_values
    axes = (len(spec.steps), len(spec.layers))
    return {entry: values.reshape(*axes, *values.shape[1:]) for entry, values in found.items()}


def _unstacked(source: Path, part: _Part, values: Mapping[str, Float[np.ndarray, "..."]]) -> Iterator[Unit]:
    """Yield the units of a file, after checking the shapes of its arrays."""
    spec = part.spec
    for entry in spec.entries:
        shape = (len(spec.steps), len(spec.layers), *spec.entry_shape(entry))
        found = values[entry].shape if entry in values else None
        if found != shape:
            raise StoreError(
                f"{source}: {entry} is {'missing' if found is None else list(found)}; expected {list(shape)}"
            )
    for row, step in enumerate(spec.steps):
        for col, layer in enumerate(spec.layers):
            yield (step, layer), {entry: values[entry][row, col] for entry in spec.entries}


def _check_exact(source: Path, part: _Part, step: int, layer: int, values: Mapping[str, Any]) -> None:
    """Check that the store would return the values unchanged."""
    encoding = encoding_of(part.params.dtype)
    for entry, entry_values in values.items():
        try:
            read = encoding.decode(*encoding.encode(entry_values))
        except ValueError as error:
            raise StoreError(f"{source}: {entry} of step {step}, layer {layer}: {error}") from error
        if not np.array_equal(read, entry_values):
            raise StoreError(
                f"{source}: {entry} of step {step}, layer {layer} contains values that {part.params.dtype} cannot "
                "represent; the file was changed after its export, so export it again"
            )


# Formats


def _write_store(target: Path, part: _Part, units: Iterator[Unit]) -> None:
    with create_group(
        target, part.group, part.spec, params=part.params, made_by=part.made_by, text=part.words
    ) as writer:
        for unit, values in units:
            writer.write(*unit, values)
        writer.finish()


def _read_store(source: Path) -> tuple[_Part, Iterator[Unit]]:
    store = open_store(source)
    groups = store.groups()
    if len(groups) != 1:
        raise StoreError(f"{source} contains {len(groups)} groups; expected one, as written by `difftrack export`")
    spec = store.spec(groups[0])
    part = _Part(_VERSION, groups[0], spec, store.params(groups[0]), **_origin(store, groups[0]))
    return part, _units(store, groups[0], spec, spec)


def _write_safetensors(target: Path, part: _Part, values: Mapping[str, Float[np.ndarray, "..."]]) -> None:
    from safetensors.numpy import save_file

    save_file(
        {entry: np.ascontiguousarray(entry_values) for entry, entry_values in values.items()},
        target,
        metadata={_KEY: part.to_text()},
    )


def _read_safetensors(source: Path) -> tuple[_Part, dict[str, Float[np.ndarray, "..."]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, framework="numpy") as file:
            part = _Part.from_text((file.metadata() or {}).get(_KEY), source)
            return part, {name: file.get_tensor(name) for name in file.keys() if name in part.spec.entries}  # noqa: SIM118
    except SafetensorError as error:
        raise StoreError(f"{source} is not a complete safetensors file: {error}") from error


def _write_netcdf(target: Path, part: _Part, values: Mapping[str, Float[np.ndarray, "..."]]) -> None:
    import xarray as xr

    from difftrack.store._schema import GroupSchema, coordinates

    layouts = GroupSchema(part.spec, part.params).layouts
    variables: dict[str, Any] = {}
    for entry, entry_values in values.items():
        if entry_values.size * 4 > MAX_NETCDF_BYTES:
            raise StoreError(
                f"{entry} takes {entry_values.size * 4} bytes, but a NetCDF 3 variable has at most {MAX_NETCDF_BYTES}; "
                "export fewer steps, layers or heads, or export to .zarr"
            )
        variables[entry] = (("step", "layer", *layouts[entry].axes), entry_values.astype(np.float32))
    labels = coordinates(part.spec)
    mask = labels.pop("text_mask", None)
    if mask is not None:
        variables["text_mask"] = mask
    dataset = xr.Dataset(variables, coords=labels, attrs={_KEY: part.to_text()})
    dataset.to_netcdf(target, engine="scipy", format="NETCDF3_64BIT")


def _read_netcdf(source: Path) -> tuple[_Part, dict[str, Float[np.ndarray, "..."]]]:
    import xarray as xr

    try:
        dataset = xr.load_dataset(source, engine="scipy")
    except (ValueError, TypeError, OSError, IndexError, KeyError, MemoryError) as error:
        raise StoreError(f"{source} is not a complete NetCDF 3 file: {error}") from error
    part = _Part.from_text(dataset.attrs.get(_KEY), source)
    kept = {str(name): dataset[name].values for name in dataset.data_vars if name in part.spec.entries}
    dtype = encoding_of(part.params.dtype).read_as
    return part, {name: values.astype(dtype) for name, values in kept.items()}


@contextmanager
def _atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces the target when it is complete."""
    partial = target.with_name(f".{target.name}.{uuid4().hex}.partial{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)  # noqa: PTH105 - os.replace works with both paths
    finally:
        partial.unlink(missing_ok=True)
