"""Open and read a store, without torch and without a model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from difftrack.artifacts import Manifest
from difftrack.store._encodings import encoding_of, fills_exponent
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
    """Return the name of a clip's group, or of one chunk's group in the tracking view."""
    return clip if chunk is None else f"{clip}/{_CHUNK}{chunk:03d}"


@dataclass(frozen=True, slots=True)
class GroupReader:
    """Reads the values of one complete group."""

    files: Files
    group: str
    schema: GroupSchema
    checksums: UnitChecksums
    """Prove that a shard is the one that was written there; empty for a store from an earlier version."""

    def read(
        self, step_index: int, layer_index: int, entry: str, latent_frame: int | None = None
    ) -> Float[np.ndarray, "..."]:
        """Read the values of one unit, or of one of its latent frames, by position; see `Store.sel`."""
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
    """Reads a store of descriptors. Missing or damaged data raises an error; fill values are never returned."""

    def __init__(self, root: StorePath) -> None:
        self._root = root
        self._files = open_files(root)
        self._readers: dict[str, GroupReader] = {}

    @property
    def root(self) -> StorePath:
        """Directory or URL of the store."""
        return self._root

    def groups(self) -> list[str]:
        """List the names of all groups of descriptors, complete and incomplete, sorted."""
        return group_names(self._files, SCHEMA)

    def manifest(self) -> Manifest:
        """Read the manifest: the clips and groups that must exist.

        Raises:
            StoreError: the manifest is damaged.
        """
        return read_manifest(self._root)

    def spec(self, group: str) -> DescriptorSpec:
        """Return the spec of a group.

        Raises:
            StoreError: the group is unknown, incomplete or damaged.
        """
        return self._reader(group).schema.spec

    def params(self, group: str) -> StoreParams:
        """Return the params with which a group is stored.

        Raises:
            StoreError: the group is unknown, incomplete or damaged.
        """
        return self._reader(group).schema.params

    def fingerprint(self, group: str) -> str:
        """Return the SHA-256 of everything that a group's values depend on.

        Raises:
            StoreError: the group is unknown, incomplete or damaged.
        """
        return self._reader(group).schema.fingerprint

    def text_tokens(self, group: str) -> TextTokens | None:
        """Return the words of the text tokens; None if the group does not have them.

        Raises:
            StoreError: the group or its words are unknown, incomplete or damaged.
        """
        schema = self._reader(group).schema
        if schema.text is None:
            return None
        try:
            found = TextTokens.from_json(schema.text)
        except ValueError as error:
            raise StoreError(f"{self._files.path(group)}: its record of words is damaged: {error}") from error
        if len(found) != schema.spec.num_text_tokens:
            raise StoreError(
                f"{self._files.path(group)} records words for {len(found)} text tokens, but stores "
                f"{schema.spec.num_text_tokens} text tokens; extract it again"
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
            step: Label of the step.
            layer: Label of the layer.
            kind: a stored kind, such as `query`, `key` or `cross_query`, or `text_key`.
            chunk: Number of the chunk, in a tracking view.
            latent_frame: Read only this latent frame, and so only one chunk of the file; its axis is dropped.
            head: Return only this head; its axis is dropped.

        Returns:
            A new array [head, latent_frame, row, col, channel], or [head, text_token, channel] for `text_key`; float16
            if that is the store's dtype, else float32.

        Raises:
            StoreError: a label does not exist (the message lists the existing ones), or the data is incomplete,
                damaged, or not finite.
        """
        group = clip_group(clip, chunk)
        reader = self._reader(group)
        try:
            shape = reader.schema.spec.entry_shape(kind)
            indices = reader.schema.indices(step, layer)
            head_index = None if head is None else reader.schema.head_index(head)
            if latent_frame is not None and (kind == "text_key" or not 0 <= latent_frame < shape[1]):
                raise ValueError(f"no latent_frame {latent_frame} of {kind}; its shape is {list(shape)}")
        except ValueError as error:
            raise StoreError(f"{self._files.path(group)}: {error}") from error
        values = reader.read(*indices, kind, latent_frame)
        if not _is_finite(values):
            raise StoreError(
                f"{self._files.path(group)}: {kind} of step {step}, layer {layer} contains values that are not finite; "
                "the backbone computed them, often because of low precision: try dtype float32 or bfloat16"
            )
        return values if head_index is None else values[head_index].copy()

    def dataset(self, group: str) -> "xarray.Dataset":
        """Open a group as a labelled xarray dataset that reads shards on demand.

        Axes: (step, layer, head, latent_frame, row, col, channel); bfloat16 and int8 are read as float32. The dataset
        or a part of it can be saved with `to_netcdf(file)` or `to_zarr(folder)`, which write float16 as float32 with
        the same values.

        Raises:
            StoreError: the group is unknown, incomplete or damaged; also during later reads of a damaged shard.
        """
        from difftrack.store._lazy import lazy_dataset  # xarray takes half a second to import

        return lazy_dataset(self._reader(group))

    def verify(self) -> Iterator[FileCheck]:
        """Check every byte of every file, in order; yields one result per file.

        Accepted files read back exactly as written. Every file that a read would refuse has a problem, and so has an
        unfinished group. `FileCheck.unproven` marks groups from an earlier version that cannot be fully proven.
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
                where = f"{files.path(group)} is a clip in a tracking view, which contains its chunks"
                raise StoreError(f"{where}; choose one with --chunk {chunks}") from error
            raise
        if found is None:
            known = self.groups()
            available = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            raise StoreError(f"{files.path(group)} does not exist; the store contains {available or 'nothing'}")
        header, schema = found
        if not header.complete:
            raise StoreError(f"{files.path(group)} is incomplete; run the stage that writes it again")
        check_parents(files, group)
        for key, problem in small_file_problems(files, group, header).items():
            raise StoreError(f"{files.path(key)} {problem}")
        return GroupReader(files, group, schema, header.unit_checksums(schema.unit_shapes))

    def __getstate__(self) -> StorePath:
        return self._root

    def __setstate__(self, root: StorePath) -> None:
        self.__init__(root)


def _chunks(files: Files, group: str) -> str:
    """Return the chunk numbers of a clip, as `0 ... 4`; empty for any other group."""
    if plain_group_problem(files.read([join(group, "zarr.json")]).get(join(group, "zarr.json"))):
        return ""
    names = files.directories(group)
    numbers = sorted(int(name.removeprefix(_CHUNK)) for name in names if re.fullmatch(rf"{_CHUNK}\d+", name))
    return " ... ".join(str(number) for number in dict.fromkeys((*numbers[:1], *numbers[-1:])))


def open_store(path: StorePath) -> Store:
    """Open a store of descriptors, on disk or behind an fsspec URL.

    Raises:
        StoreError: the path does not exist, is empty, or is not a store.
    """
    store = Store(path)
    files = open_files(path)
    if not any(read_each(files, ["zarr.json"])):
        folders = files.directories("")
        if not folders:
            raise StoreError(f"{files.path('')} is not a store: it does not exist or is empty")
        # If a folder has a zarr.json, only the root's own zarr.json is lost.
        if not any(read_each(files, [join(folder, "zarr.json") for folder in folders])):
            raise StoreError(f"{files.path('')} is not a store: neither it nor a folder in it contains a zarr.json")
    return store


def _is_finite(values: Float[np.ndarray, "..."]) -> bool:
    """Whether all values are finite."""
    if values.dtype == np.float16:
        return not fills_exponent(values.view(np.uint16), 0x7C00)
    return bool(np.isfinite(values).all())
