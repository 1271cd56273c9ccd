"""What makes up a descriptor group: its arrays, its labels, its header, and every small file byte for byte.

The files are made in memory before anything is written, so they can be compared with what is there, and repaired.
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
    """A spec and how it is stored: all that is needed to find and read a value of the group."""

    spec: DescriptorSpec
    params: StoreParams
    version: int = SCHEMA_VERSION
    made_by: Mapping[str, Any] | None = None
    """What wrote the values, as `difftrack.provenance` has it, in JSON; no part of the fingerprint. None: not known."""
    reused: bool = False
    """Whether a later run took the values up though it would have made them by something else."""
    text: Mapping[str, Any] | None = None
    """Which words the text tokens stand for, as `difftrack.text_tokens` has it, in JSON; no part of the fingerprint,
    which the prompt has through the clip. None: not known."""

    @property
    def separator(self) -> Separator:
        """What the version puts between the indices of a key."""
        return "/" if self.version == 1 else "."

    @cached_property
    def layouts(self) -> dict[str, ArrayLayout]:
        """The stored arrays by name."""
        return {layout.name: layout for layout in array_layouts(self.spec, self.params, separator=self.separator)}

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.spec, self.params)

    def entry_layouts(self, entry: str) -> list[ArrayLayout]:
        """The arrays that hold an entry: its numbers, and for int8 its scales."""
        return [self.layouts[name] for name in (entry, f"{entry}_scale") if name in self.layouts]

    def indices(self, step: int, layer: int) -> tuple[int, int]:
        """Positions of a unit along the first two axes.

        Raises:
            ValueError: the group has no such step or layer; the message lists those that it has.
        """
        return _index(self.spec.steps, step, "step"), _index(self.spec.layers, layer, "layer")

    def unit_index(self, step_index: int, layer_index: int) -> int:
        """Position of a unit among `spec.units`."""
        return step_index * len(self.spec.layers) + layer_index

    def head_index(self, head: int) -> int:
        """Position of a head along its axis.

        Raises:
            ValueError: the group has no such head.
        """
        return _index(self.spec.heads, head, "head")

    @property
    def unit_shapes(self) -> dict[str, tuple[int, int]]:
        """Numbers of units and of chunks in a unit, by array."""
        return {name: (len(self.spec.units), layout.num_chunks) for name, layout in self.layouts.items()}

    def header(
        self, files: Mapping[str, bytes], *, complete: bool, units: UnitChecksums = MappingProxyType({})
    ) -> Header:
        """The header of a group with these small files and, once they are known, checksums of its units."""
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
        """What a header describes.

        Raises:
            ValueError: it describes nothing that can be stored.
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
        """What every array says of its origin, should the header be lost."""
        made_by = {} if self.made_by is None else {"made_by": made_by_digest(self.made_by)}
        return {"fingerprint": self.fingerprint, "stored_as": self.params.dtype, **made_by}


def made_by_digest(made_by: Mapping[str, Any]) -> str:
    """SHA-256 over a record of what wrote the values."""
    return hashlib.sha256(canonical_json(made_by).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Contents:
    """The contents of a header, as JSON has them."""

    spec: DescriptorSpec
    params: StoreParams
    fingerprint: str
    made_by: Mapping[str, Any] | None = None
    reused: bool = False
    text: Mapping[str, Any] | None = None


def read_schema(files: Files, group: str) -> tuple[Header, GroupSchema] | None:
    """The header of a group of descriptors and what it describes; None where there is none.

    Raises:
        StoreError: it is damaged, or of another schema.
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
    """The labels along the axes: name -> (axis, values)."""
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
    """Every file of a group but its header and its shards, by key below the group."""
    from difftrack.store._zarr_metadata import small_files  # reading needs no zarr, whose import takes 0.4 s

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
