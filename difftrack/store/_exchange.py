"""A part of one group as a file for a colleague, and back into a store.

| file | holds | opened by |
| --- | --- | --- |
| `.zarr` | a store of that one group, checksums and all | `open_store`, stock xarray and zarr |
| `.safetensors` | one tensor per entry, [step, layer, *unit], float16 or float32 | safetensors, with or without torch |
| `.nc` | the same as float32 variables with labels (NetCDF 3, which knows no float16) | xarray, Matlab, R |

Each carries the whole header: spec, params, and by what the values were made. A part is the group that an extraction of
these steps, layers, heads and kinds alone would have written, and an import restores it bit for bit.
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
"""Suffixes of what `export_group` writes."""

MAX_NETCDF_BYTES = (1 << 31) - 4
"""Most bytes of a variable of NetCDF 3."""

_KEY = "difftrack"
"""Attribute, or entry of the metadata, that holds the header as JSON."""

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
        """The header as JSON; the same part gives the same text."""
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
        """Which words the text tokens stand for, as far as the group said so."""
        return None if self.text is None else TextTokens.from_json(self.text)

    @classmethod
    def from_text(cls, text: object, file: Path) -> "_Part":
        """Read a header.

        Raises:
            StoreError: it is none, or of another version.
        """
        wanted = "wanted: a file that `difftrack export` wrote"
        if not isinstance(text, str):
            raise StoreError(f"{file} carries no header of a group; {wanted}")
        try:
            part = parse(cls, parse_json(text.encode()), "header", file=file)
            _ = part.words
        except (ParamsError, ValueError) as error:
            raise StoreError(f"{file} carries a damaged header: {error}; {wanted}") from error
        if part.version != _VERSION:
            raise StoreError(f"{file} is of version {part.version}; this program reads {_VERSION}")
        return part


def part_bytes(spec: DescriptorSpec, suffix: str) -> int:
    """Bytes of a part's values as a file of this suffix holds them, before compression."""
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
    """Write a part of a group as one file, or as a zarr folder.

    Args:
        store: Where the group lies.
        group: Its name, as `clip_group` gives it.
        file: What to write, ending in `.nc`, `.zarr` or `.safetensors`.
        steps: These only, in the group's order; all by default, and so for what follows.
        layers: These layers only.
        heads: These heads only.
        kinds: Of query, key and feature, these only.
        force: Replace a file that is there already; a folder never is.

    Returns:
        What the file holds.

    Raises:
        StoreError: the group is unknown or damaged, it lacks what is asked for, the suffix is another one, something
            lies there already, or the format cannot hold so much.
    """
    target = Path(file)
    if target.suffix not in FORMATS:
        raise StoreError(f"{target} ends in {target.suffix or 'nothing'}; wanted: {', '.join(FORMATS)}")
    if target.exists() and (target.is_dir() or not force):
        raise StoreError(f"{target} is there already; name another file{'' if target.is_dir() else ', or say --force'}")
    whole = store.spec(group)
    spec = _narrowed(whole, group, steps=steps, layers=layers, heads=heads, kinds=kinds)
    part = _Part(_VERSION, group, spec, store.params(group), **_origin(store, group, with_text=bool(spec.text_mask)))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".zarr":
        _write_store(target, part, _units(store, group, whole, spec))
        return spec
    _check_memory(target, part_bytes(spec, target.suffix))
    with _in_one_step(target) as partial:
        (_write_netcdf if target.suffix == ".nc" else _write_safetensors)(
            partial, part, _stacked(store, group, whole, spec)
        )
    return spec


def import_group(file: StorePath, root: StorePath, *, group: str | None = None, force: bool = False) -> str:
    """Write what `export_group` exported into a store, as the group that it is a part of.

    Args:
        file: The exported file or zarr folder.
        root: The store; created where it does not exist.
        group: Name of the group there; by default the one that it had.
        force: Replace a group of other contents.

    Returns:
        The group's name.

    Raises:
        StoreError: the file is none that `export_group` wrote, or it is damaged, or the store holds another group of
            that name.
    """
    source = Path(file)
    if source.suffix not in FORMATS:
        raise StoreError(f"{source} ends in {source.suffix or 'nothing'}; wanted: {', '.join(FORMATS)}")
    if not source.exists():
        raise StoreError(f"there is no {source}")
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
        for (step, layer), of_unit in units:
            if (step, layer) in missing:
                _check_exact(source, part, step, layer, of_unit)
                writer.write(step, layer, of_unit)
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
    """The spec of a part; labels stay in the group's order."""
    chosen: dict[str, Any] = {}
    for name, wanted in (("steps", steps), ("layers", layers), ("heads", heads), ("kinds", kinds)):
        there = getattr(spec, name)
        if wanted is None:
            continue
        if lacking := [label for label in wanted if label not in there]:
            raise StoreError(f"{group} has no {name[:-1]} {lacking[0]}; there are {', '.join(map(str, there))}")
        chosen[name] = tuple(label for label in there if label in wanted)
    if "cross_query" in spec.kinds and "cross_query" not in chosen.get("kinds", spec.kinds):
        chosen["text_mask"] = ()  # its keys answer the cross-attention's queries alone
    if "steps" in chosen:
        chosen["timesteps"] = tuple(spec.timesteps[spec.steps.index(step)] for step in chosen["steps"])
    try:
        return replace(spec, **chosen)
    except ValueError as error:
        raise StoreError(f"{group}: {error}") from error


def _check_memory(target: Path, num_bytes: int) -> None:
    """Refuse a file that is made in memory where half of what is free would not hold it."""
    import psutil

    free = psutil.virtual_memory().available
    if num_bytes > free // 2:
        raise StoreError(
            f"{target} would hold {num_bytes / 1e9:.1f} GB, which is made in memory, of which {free / 1e9:.1f} GB are "
            "free; take fewer steps, layers or heads, or export to .zarr, which is written piece by piece"
        )


def _origin(store: Store, group: str, *, with_text: bool = True) -> dict[str, Any]:
    """What the group's header says of what made it, and of its words."""
    found = stored_group(store.root, group)
    names = ("made_by", "text") if with_text else ("made_by",)
    return {name: None if found is None else found.contents.get(name) for name in names}


def _units(store: Store, group: str, whole: DescriptorSpec, spec: DescriptorSpec) -> Iterator[Unit]:
    """The units of a part, one after the other."""
    heads = [whole.heads.index(head) for head in spec.heads]
    for step, layer in spec.units:
        read = {entry: store.sel(clip=group, step=step, layer=layer, kind=entry) for entry in spec.entries}
        yield (step, layer), read if spec.heads == whole.heads else {name: read[name][heads] for name in read}


def _stacked(
    store: Store, group: str, whole: DescriptorSpec, spec: DescriptorSpec
) -> dict[str, Float[np.ndarray, "..."]]:
    """A part in memory: [step, layer, *unit] by entry."""
    found: dict[str, Float[np.ndarray, ...]] = {}
    for number, (_, values) in enumerate(_units(store, group, whole, spec)):
        for entry, of_unit in values.items():
            if entry not in found:
                found[entry] = np.empty((len(spec.units), *of_unit.shape), of_unit.dtype)
            found[entry][number] = of_unit
    axes = (len(spec.steps), len(spec.layers))
    return {entry: values.reshape(*axes, *values.shape[1:]) for entry, values in found.items()}


def _unstacked(source: Path, part: _Part, values: Mapping[str, Float[np.ndarray, "..."]]) -> Iterator[Unit]:
    """The units of a file, once the shapes of its arrays are those of its header."""
    spec = part.spec
    for entry in spec.entries:
        shape = (len(spec.steps), len(spec.layers), *spec.entry_shape(entry))
        there = values[entry].shape if entry in values else None
        if there != shape:
            raise StoreError(
                f"{source}: {entry} is {'missing' if there is None else list(there)}; wanted {list(shape)}"
            )
    for row, step in enumerate(spec.steps):
        for col, layer in enumerate(spec.layers):
            yield (step, layer), {entry: values[entry][row, col] for entry in spec.entries}


def _check_exact(source: Path, part: _Part, step: int, layer: int, values: Mapping[str, Any]) -> None:
    """Refuse values that the store would not give back as they are."""
    encoding = encoding_of(part.params.dtype)
    for entry, of_entry in values.items():
        try:
            read = encoding.decode(*encoding.encode(of_entry))
        except ValueError as error:
            raise StoreError(f"{source}: {entry} of step {step}, layer {layer}: {error}") from error
        if not np.array_equal(read, of_entry):
            raise StoreError(
                f"{source}: {entry} of step {step}, layer {layer} holds values that {part.params.dtype} would change; "
                "the file was changed since its export"
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
        raise StoreError(f"{source} holds {len(groups)} groups; wanted: one, as `difftrack export` writes")
    spec = store.spec(groups[0])
    part = _Part(_VERSION, groups[0], spec, store.params(groups[0]), **_origin(store, groups[0]))
    return part, _units(store, groups[0], spec, spec)


def _write_safetensors(target: Path, part: _Part, values: Mapping[str, Float[np.ndarray, "..."]]) -> None:
    from safetensors.numpy import save_file

    save_file(
        {entry: np.ascontiguousarray(of_entry) for entry, of_entry in values.items()},
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
        raise StoreError(f"{source} is no whole safetensors file: {error}") from error


def _write_netcdf(target: Path, part: _Part, values: Mapping[str, Float[np.ndarray, "..."]]) -> None:
    import xarray as xr

    from difftrack.store._schema import GroupSchema, coordinates

    layouts = GroupSchema(part.spec, part.params).layouts
    variables: dict[str, Any] = {}
    for entry, of_entry in values.items():
        if of_entry.size * 4 > MAX_NETCDF_BYTES:
            raise StoreError(
                f"{entry} takes {of_entry.size * 4} bytes, and a variable of NetCDF 3 holds {MAX_NETCDF_BYTES}; "
                "take fewer steps, layers or heads, or export to .zarr"
            )
        variables[entry] = (("step", "layer", *layouts[entry].axes), of_entry.astype(np.float32))
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
        raise StoreError(f"{source} is no whole file of NetCDF 3: {error}") from error
    part = _Part.from_text(dataset.attrs.get(_KEY), source)
    kept = {str(name): dataset[name].values for name in dataset.data_vars if name in part.spec.entries}
    dtype = encoding_of(part.params.dtype).read_as
    return part, {name: values.astype(dtype) for name, values in kept.items()}


@contextmanager
def _in_one_step(target: Path) -> Iterator[Path]:
    """Give a path beside a file that takes its place once it is whole."""
    partial = target.with_name(f".{target.name}.{uuid4().hex}.partial{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)  # noqa: PTH105 - pathlib's way gives another name
    finally:
        partial.unlink(missing_ok=True)
