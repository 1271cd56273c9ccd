"""The schema of a descriptor group: its arrays, labels, header and small files.

The small files are built in memory before anything is written, so that existing files can be compared and repaired.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Num

from difftrack.params import ParamsError, parse
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files
from difftrack.store._group_metadata import Header, UnitChecksums, join, read_header, units_as_text
from difftrack.store._params import StoreParams
from difftrack.store._spec import (
    SCHEMA_VERSION,
    ArrayLayout,
    DescriptorSpec,
    Separator,
    array_layouts,
    canonical_json,
    fingerprint_of,
)

__all__ = ["GroupSchema", "coordinates", "group_files", "read_schema"]

SCHEMA = "descriptors"


@dataclass(frozen=True)
class GroupSchema:
    """A spec and its storage format: everything that is needed to find and read a value of the group."""

    spec: DescriptorSpec
    params: StoreParams
    version: int = SCHEMA_VERSION
    made_by: Mapping[str, Any] | None = None
    """How the values were made, as JSON from `difftrack.provenance`; not part of the fingerprint. None if unknown."""
    reused: bool = False
    """Whether a later run reused the values although it would have made them differently."""
    text: Mapping[str, Any] | None = None
    """Words of the text tokens, as JSON from `difftrack.text_tokens`; not part of the fingerprint. None if unknown."""

    @property
    def separator(self) -> Separator:
        """Separator between the indices of a key, which depends on the version."""
        return "/" if self.version == 1 else "."

    @cached_property
    def layouts(self) -> dict[str, ArrayLayout]:
        """Name -> layout of the stored arrays."""
        return {layout.name: layout for layout in array_layouts(self.spec, self.params, separator=self.separator)}

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.spec, self.params)

    def entry_layouts(self, entry: str) -> list[ArrayLayout]:
        """Return the arrays of an entry: its numbers, and for int8 its scales."""
        return [self.layouts[name] for name in (entry, f"{entry}_scale") if name in self.layouts]

    def indices(self, step: int, layer: int) -> tuple[int, int]:
        """Return the position of a unit along the first two axes.

        Raises:
            ValueError: the group has no such step or layer; the message lists the existing ones.
        """
        return _index(self.spec.steps, step, "step"), _index(self.spec.layers, layer, "layer")

    def unit_index(self, step_index: int, layer_index: int) -> int:
        """Return the position of a unit in `spec.units`."""
        return step_index * len(self.spec.layers) + layer_index

    def head_index(self, head: int) -> int:
        """Return the position of a head along its axis.

        Raises:
            ValueError: the group has no such head.
        """
        return _index(self.spec.heads, head, "head")

    @property
    def unit_shapes(self) -> dict[str, tuple[int, int]]:
        """Array -> number of units, and of chunks in a unit."""
        return {name: (len(self.spec.units), layout.num_chunks) for name, layout in self.layouts.items()}

    def header(
        self, files: Mapping[str, bytes], *, complete: bool, units: UnitChecksums = MappingProxyType({})
    ) -> Header:
        """Build the header of a group with these small files and, for a complete group, checksums of its units."""
        return Header(
            schema=SCHEMA,
            contents={
                "spec": self.spec.to_json(),
                "params": dataclasses.asdict(self.params),
                "fingerprint": self.fingerprint,
                **({} if self.made_by is None else {"made_by": self.made_by}),
                **({"reused": True} if self.reused else {}),
                **({} if self.text is None else {"text": self.text}),
            },
            files={key: hashlib.sha256(content).hexdigest() for key, content in files.items()},
            complete=complete,
            attributes={"coordinates": "timestep frame"},
            version=self.version,
            units=units_as_text(units),
        )

    @classmethod
    def from_header(cls, header: Header) -> "GroupSchema":
        """Parse the schema in a header.

        Raises:
            ValueError: the header does not describe a valid group.
        """
        known = {
            item.name: header.contents[item.name]
            for item in dataclasses.fields(_Contents)
            if item.name in header.contents
        }
        try:
            contents = parse(_Contents, known, "contents", file="header")
            schema = cls(
                contents.spec, contents.params, header.version, contents.made_by, contents.reused, contents.text
            )
        except ParamsError as error:
            raise ValueError(f"is damaged: {error}") from error
        except RecursionError as error:
            raise ValueError("is damaged: its spec is nested too deeply") from error
        header.unit_checksums(schema.unit_shapes)
        return schema

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of every array, which identify its origin if the header is lost."""
        made_by = {} if self.made_by is None else {"made_by": made_by_digest(self.made_by)}
        return {"fingerprint": self.fingerprint, "stored_as": self.params.dtype, **made_by}


def made_by_digest(made_by: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a record of how the values were made."""
    return hashlib.sha256(canonical_json(made_by).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Contents:
    """The contents of a header, as JSON values."""

    spec: DescriptorSpec
    params: StoreParams
    fingerprint: str
    made_by: Mapping[str, Any] | None = None
    reused: bool = False
    text: Mapping[str, Any] | None = None


def read_schema(files: Files, group: str) -> tuple[Header, GroupSchema] | None:
    """Read the header of a group of descriptors and its schema; None if there is no header.

    Raises:
        StoreError: the header is damaged, or has another schema.
    """
    header = read_header(files, group, schema=SCHEMA)
    if header is None:
        return None
    try:
        return header, GroupSchema.from_header(header)
    except ValueError as error:
        raise StoreError(f"{files.path(join(group, 'zarr.json'))} {error}") from error


def coordinates(
    spec: DescriptorSpec,
) -> dict[str, tuple[str, Num[np.ndarray, " label"] | Bool[np.ndarray, " label"]]]:
    """Return the labels along the axes: name -> (axis, values)."""
    labels: dict[str, tuple[str, Any]] = {
        "step": ("step", np.asarray(spec.steps, np.int64)),
        "timestep": ("step", np.asarray(spec.timesteps, np.float64)),
        "layer": ("layer", np.asarray(spec.layers, np.int64)),
        "head": ("head", np.asarray(spec.heads, np.int64)),
        "latent_frame": ("latent_frame", np.arange(spec.grid.num_latent_frames, dtype=np.int64)),
        "frame": ("latent_frame", np.asarray(spec.frames, np.int64)),
    }
    if spec.text_mask:
        labels["text_mask"] = ("text_token", np.asarray(spec.text_mask, bool))
    return labels


def group_files(schema: GroupSchema) -> dict[str, bytes]:
    """Build all files of a group except its header and its shards, by key in the group."""
    from difftrack.store._zarr_metadata import small_files  # importing zarr takes 0.4 s, and reading does not need it

    return small_files(
        schema.layouts.values(),
        coordinates(schema.spec),
        num_units=(len(schema.spec.steps), len(schema.spec.layers)),
        attributes=schema.attributes,
        separator=schema.separator,
    )


def _index(labels: tuple[int, ...], label: int, axis: str) -> int:
    try:
        return labels.index(label)
    except ValueError:
        raise ValueError(f"no {axis} {label}; there are {', '.join(map(str, labels))}") from None
