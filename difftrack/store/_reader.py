"""Opening a store and asking it something. Needs neither torch nor a model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from difftrack.artifacts import Manifest
from difftrack.store._encodings import encoding_of
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files, StorePath, open_files
from difftrack.store._group_metadata import (
    UnitChecksums,
    check_parents,
    join,
    parents,
    plain_group_problem,
    read_each,
    small_file_problems,
)
from difftrack.store._manifest import read_manifest
from difftrack.store._params import StoreParams
from difftrack.store._schema import SCHEMA, GroupSchema, read_schema
from difftrack.store._shards import read_shard
from difftrack.store._spec import DescriptorSpec
from difftrack.store._verify import FileCheck, check_files, group_names
from difftrack.text_tokens import TextTokens

if TYPE_CHECKING:
    import xarray

__all__ = ["Store", "clip_group", "open_store"]

_CHUNK = "chunk_"


def clip_group(clip: str, chunk: int | None = None) -> str:
    """The group of a clip, or of one chunk of it in the tracking view."""
    return clip if chunk is None else f"{clip}/{_CHUNK}{chunk:03d}"


@dataclass(frozen=True, slots=True)
class GroupReader:
    """Reads the values of one complete group."""

    files: Files
    group: str
    schema: GroupSchema
    checksums: UnitChecksums
    """What proves that a shard is the one that was written there; empty in a store of an earlier program."""

    def read(
        self, step_index: int, layer_index: int, entry: str, latent_frame: int | None = None
    ) -> Float[np.ndarray, "..."]:
        """Values of one unit by position, or of one latent frame of it; see `Store.sel`."""
        unit = self.schema.unit_index(step_index, layer_index)
        numbers = [
            read_shard(
                self.files,
                join(self.group, layout.shard_key(step_index, layer_index)),
                layout,
                latent_frame=latent_frame,
                checksums=self.checksums[layout.name][unit] if self.checksums else None,
            )
            for layout in self.schema.entry_layouts(entry)
        ]
        return encoding_of(self.schema.params.dtype).decode(numbers[0], numbers[1] if len(numbers) > 1 else None)


class Store:
    """A store of descriptors, for reading. Everything that is missing or damaged raises; fill values never appear."""

    def __init__(self, root: StorePath) -> None:
        self._root = root
        self._files = open_files(root)
        self._readers: dict[str, GroupReader] = {}

    @property
    def root(self) -> StorePath:
        """The directory or URL."""
        return self._root

    def groups(self) -> list[str]:
        """Names of all groups of descriptors, sorted; complete ones and others."""
        return group_names(self._files, SCHEMA)

    def manifest(self) -> Manifest:
        """What there ought to be, whether it can be read or not.

        Raises:
            StoreError: the manifest is damaged.
        """
        return read_manifest(self._root)

    def spec(self, group: str) -> DescriptorSpec:
        """What a group holds.

        Raises:
            StoreError: the group is unknown, incomplete or damaged.
        """
        return self._reader(group).schema.spec

    def params(self, group: str) -> StoreParams:
        """How a group is stored.

        Raises:
            StoreError: the group is unknown, incomplete or damaged.
        """
        return self._reader(group).schema.params

    def fingerprint(self, group: str) -> str:
        """SHA-256 over everything that a group's values depend on.

        Raises:
            StoreError: the group is unknown, incomplete or damaged.
        """
        return self._reader(group).schema.fingerprint

    def text_tokens(self, group: str) -> TextTokens | None:
        """Which word of the prompt each text token stands for; None where what wrote the group did not say.

        Raises:
            StoreError: the group is unknown, incomplete or damaged, or what it says of its words is.
        """
        schema = self._reader(group).schema
        if schema.text is None:
            return None
        try:
            found = TextTokens.from_json(schema.text)
        except ValueError as error:
            raise StoreError(f"{self._files.path(group)}: what it says of its words is damaged: {error}") from error
        if len(found) != schema.spec.num_text_tokens:
            raise StoreError(
                f"{self._files.path(group)} names the words of {len(found)} text tokens and holds "
                f"{schema.spec.num_text_tokens}; extract it again"
            )
        return found

    def sel(
        self,
        *,
        clip: str,
        step: int,
        layer: int,
        kind: str,
        chunk: int | None = None,
        latent_frame: int | None = None,
        head: int | None = None,
    ) -> Float[np.ndarray, "..."]:
        """Read one descriptor.

        Args:
            clip: Name of the clip.
            step: A step by its label, as all that follow.
            layer: A layer.
            kind: `query`, `key`, `feature`, `cross_query` or `text_key`.
            chunk: The chunk, in a tracking view.
            latent_frame: This one only, which reads one chunk of the file; its axis is dropped.
            head: This one only; its axis is dropped.

        Returns:
            [head, latent_frame, row, col, channel], for `text_key` [head, text_token, channel]; float16 where that is
            the store's dtype, else float32. A fresh array.

        Raises:
            StoreError: there is no such thing, and the message says what there is; or it is incomplete, damaged, or not
                finite.
        """
        group = clip_group(clip, chunk)
        reader = self._reader(group)
        try:
            shape = reader.schema.spec.entry_shape(kind)
            indices = reader.schema.indices(step, layer)
            head_index = None if head is None else reader.schema.head_index(head)
            if latent_frame is not None and (kind == "text_key" or not 0 <= latent_frame < shape[1]):
                raise ValueError(f"no latent_frame {latent_frame} of {kind}; {list(shape)} is all")
        except ValueError as error:
            raise StoreError(f"{self._files.path(group)}: {error}") from error
        values = reader.read(*indices, kind, latent_frame)
        if not _is_finite(values):
            raise StoreError(
                f"{self._files.path(group)}: {kind} of step {step}, layer {layer} holds values that are not finite; "
                "the backbone gave them, often for want of precision: try dtype float32 or bfloat16"
            )
        return values if head_index is None else values[head_index].copy()

    def dataset(self, group: str) -> "xarray.Dataset":
        """A group as a labelled xarray dataset, read where and when it is used.

        Axes (step, layer, head, latent_frame, row, col, channel); bfloat16 and int8 appear as float32. The dataset, or
        a part of it, is saved onwards by `to_netcdf(file)` or `to_zarr(folder)`, float16 as float32 of the same values.

        Raises:
            StoreError: the group is unknown, incomplete or damaged; later, a shard that is read.
        """
        from difftrack.store._lazy import lazy_dataset  # xarray takes half a second to import

        return lazy_dataset(self._reader(group))

    def verify(self) -> Iterator[FileCheck]:
        """Check every byte of every file, in order; yields one result a file.

        What it accepts reads back as it was written, and what a read refuses it names; a group that was never finished
        yields a problem too. `FileCheck.unproven` says where a store of an earlier program leaves something open.
        """
        return check_files(self._files)

    def _reader(self, group: str) -> GroupReader:
        if group not in self._readers:
            self._readers[group] = self._open(group)
        return self._readers[group]

    def _open(self, group: str) -> GroupReader:
        files = self._files
        parents(group)
        try:
            found = read_schema(files, group)
        except StoreError as error:
            if chunks := _chunks(files, group):
                where = f"{files.path(group)} is a clip in a tracking view, which holds chunks of it"
                raise StoreError(f"{where}; give --chunk {chunks}") from error
            raise
        if found is None:
            known = self.groups()
            there = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            raise StoreError(f"{files.path(group)} does not exist; the store holds {there or 'nothing'}")
        header, schema = found
        if not header.complete:
            raise StoreError(f"{files.path(group)} is incomplete; run what writes it again")
        check_parents(files, group)
        for key, problem in small_file_problems(files, group, header).items():
            raise StoreError(f"{files.path(key)} {problem}")
        return GroupReader(files, group, schema, header.unit_checksums(schema.unit_shapes))

    def __getstate__(self) -> StorePath:
        return self._root

    def __setstate__(self, root: StorePath) -> None:
        self.__init__(root)


def _chunks(files: Files, group: str) -> str:
    """The numbers of the chunks of a clip, as `0 ... 4`; empty where the group is something else."""
    if plain_group_problem(files.read([join(group, "zarr.json")]).get(join(group, "zarr.json"))):
        return ""
    names = files.directories(group)
    numbers = sorted(int(name.removeprefix(_CHUNK)) for name in names if re.fullmatch(rf"{_CHUNK}\d+", name))
    return " ... ".join(str(number) for number in dict.fromkeys((*numbers[:1], *numbers[-1:])))


def open_store(path: StorePath) -> Store:
    """Open a store of descriptors, on disk or behind an fsspec URL.

    Raises:
        StoreError: there is nothing, or something else.
    """
    store = Store(path)
    files = open_files(path)
    if not any(read_each(files, ["zarr.json"])):
        folders = files.directories("")
        if not folders:
            raise StoreError(f"{files.path('')} is not a store: it does not exist or is empty")
        if not any(read_each(files, [join(folder, "zarr.json") for folder in folders])):  # else it only lost its own
            raise StoreError(f"{files.path('')} is not a store: neither it nor a folder in it holds a zarr.json")
    return store


def _is_finite(values: Float[np.ndarray, "..."]) -> bool:
    """Whether all values are finite; of float16 by their bits, which takes a twentieth of the time."""
    if values.dtype == np.float16:
        return not bool((values.view(np.uint16) & 0x7FFF).max(initial=0) >= 0x7C00)
    return bool(np.isfinite(values).all())
