"""The header of a group: a zarr.json whose attributes describe the group and prove its integrity.

Its attribute `difftrack` contains the schema, the contents, the SHA-256 of every small file, whether the group is
complete, the checksums of all chunks of a complete group, and a checksum of all of that. A header may come from an
untrusted source, so it is parsed into typed, bounded fields before any file named in it is opened.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt32

from difftrack.documents import parse_json
from difftrack.params import ParamsError, parse
from difftrack.store._errors import IrregularFileError, StoreError
from difftrack.store._filesystem import Files
from difftrack.store._spec import READABLE_VERSIONS, SCHEMA_VERSION, canonical_json

__all__ = [
    "Header",
    "UnitChecksums",
    "check_parents",
    "join",
    "parents",
    "read_each",
    "read_header",
    "units_as_text",
    "write_parents",
]

PLAIN_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}

CONSOLIDATED = "consolidated_metadata"
"""Key that `zarr.consolidate_metadata` adds to a zarr.json: a copy of metadata, used only by zarr."""

MAX_HEADER_BYTES = 64 << 20
"""Maximum size of a header; with 30 layers, 50 steps and 13 chunks per unit it has a third of a megabyte."""

MAX_FILES = 4096
"""Maximum number of small files in a group; a group of descriptors has about twenty."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){0,9}")
"""Valid keys of small files in a group: no absolute path, no parent folder, no hidden file."""

UnitChecksums = Mapping[str, UInt32[np.ndarray, "unit chunk"]]
"""Array -> CRC-32C of each chunk of each unit; proves that a shard is the one that was written there."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """The store's own part of a zarr.json, as JSON values."""

    schema: Literal["descriptors", "results"]
    version: int
    contents: Mapping[str, Any]
    files: Mapping[str, str]
    complete: bool
    checksum: str
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """The content of a group's zarr.json."""

    schema: str
    """`descriptors` or `results`."""
    contents: Mapping[str, Any]
    files: Mapping[str, str]
    """Key of each small file in the group -> its SHA-256."""
    complete: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The group's other attributes, for readers that only use zarr."""
    version: int = SCHEMA_VERSION
    units: Mapping[str, str] = field(default_factory=dict)
    """`UnitChecksums` in base64; empty for an incomplete group, and for a group finished by an earlier version."""

    def to_bytes(self) -> bytes:
        """Return the content of the zarr.json."""
        own = {
            "schema": self.schema,
            "version": self.version,
            "contents": self.contents,
            "files": dict(sorted(self.files.items())),
            "complete": self.complete,
        }
        if self.units:
            own["units"] = dict(sorted(self.units.items()))
        own["checksum"] = _checksum(own, self.attributes)
        document = {**PLAIN_GROUP, "attributes": {**self.attributes, "difftrack": own}}
        return json.dumps(document, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Header":
        """Parse a zarr.json.

        Raises:
            ValueError: the content is damaged, or has an unknown version.
        """
        if len(content) > MAX_HEADER_BYTES:
            raise ValueError(f"has {len(content)} bytes; a header has at most {MAX_HEADER_BYTES}")
        document = parse_json(content)
        if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
            raise ValueError("is not a zarr group")
        document.pop(CONSOLIDATED, None)
        attributes = dict(document["attributes"])
        own = attributes.pop("difftrack", None)
        if not isinstance(own, dict):
            raise ValueError("is not a group written by difftrack")
        if own.get("version") not in READABLE_VERSIONS:
            known = " and ".join(map(str, READABLE_VERSIONS))
            raise ValueError(f"has schema version {own.get('version')!r}; this program reads {known}")
        fields = _parse_fields(own)
        own.pop("checksum")
        if {**document, "attributes": {}} != PLAIN_GROUP or fields.checksum != _checksum(own, attributes):
            raise ValueError("does not match its own checksum")
        return cls(
            fields.schema, fields.contents, fields.files, fields.complete, attributes, fields.version, fields.units
        )

    def unit_checksums(self, shapes: Mapping[str, tuple[int, int]]) -> UnitChecksums:
        """Decode the checksums in `units`, by array.

        Args:
            shapes: Array -> number of units, and of chunks in a unit.

        Raises:
            ValueError: the arrays or the numbers of checksums differ from `shapes`.
        """
        if not self.units:
            return {}
        if self.units.keys() != shapes.keys():
            raise ValueError(f"has checksums of {', '.join(self.units)}, but contains {', '.join(shapes)}")
        checksums = {}
        for name, text in self.units.items():
            try:
                numbers = np.frombuffer(base64.b64decode(text, validate=True), "<u4")
                checksums[name] = numbers.reshape(shapes[name])
            except (binascii.Error, ValueError) as error:
                raise ValueError(f"has checksums of {name} that are not {list(shapes[name])} numbers") from error
        return checksums


def units_as_text(checksums: UnitChecksums) -> dict[str, str]:
    """Encode checksums for `Header.unit_checksums`."""
    return {name: base64.b64encode(numbers.astype("<u4").tobytes()).decode() for name, numbers in checksums.items()}


def _parse_fields(own: Mapping[str, Any]) -> _Fields:
    """Parse the store's own part of a zarr.json; unknown fields from later versions are ignored.

    Raises:
        ValueError: a field is missing or invalid.
    """
    known = [item.name for item in dataclasses.fields(_Fields)]
    try:
        fields = parse(_Fields, {name: own[name] for name in known if name in own}, "difftrack", file="header")
    except ParamsError as error:
        raise ValueError(f"is damaged: {error}") from error
    if len(fields.files) > MAX_FILES:
        raise ValueError(f"lists {len(fields.files)} files; a group has at most {MAX_FILES}")
    for name in fields.files:
        if _FILE_NAME.fullmatch(name) is None:
            raise ValueError(f"lists the file {name[:200]!r}; files must lie inside their group")
    return fields


def join(*parts: str) -> str:
    """Join keys, leaving out empty ones."""
    return "/".join(part for part in parts if part)


def parents(group: str) -> list[str]:
    """Return the parents of a group, starting with the root ("").

    Raises:
        StoreError: `group` is not a relative path of plain names.
    """
    names = group.split("/")
    for name in names:
        if not name or name.startswith((".", "__")) or name.endswith(".partial") or "\\" in name or name == "zarr.json":
            raise StoreError(f"group {group!r}: {name!r} is not a valid name of a group")
    return ["/".join(names[:depth]) for depth in range(len(names))]


def read_header(files: Files, group: str, *, schema: str) -> Header | None:
    """Read the header of a group; None if there is none.

    Raises:
        StoreError: the header is damaged, or has another schema.
    """
    key = join(group, "zarr.json")
    content = files.read([key]).get(key)
    if content is None:
        return None
    try:
        header = Header.from_bytes(content)
    except ValueError as error:
        raise StoreError(f"{files.path(key)} {error}") from error
    if header.schema != schema:
        raise StoreError(f"{files.path(key)} contains {header.schema}; expected {schema}")
    return header


def small_file_problems(files: Files, group: str, header: Header) -> dict[str, str]:
    """Return the problems of a group's small files, by key in the root."""
    keys = {join(group, name): digest for name, digest in header.files.items()}
    found, problems = read_each(files, list(keys))
    for key, digest in keys.items():
        if key in problems:
            continue
        if key not in found:
            problems[key] = "is missing"
        elif hashlib.sha256(found[key]).hexdigest() != digest:
            problems[key] = "is damaged: its checksum differs"
    return problems


def read_each(files: Files, keys: list[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Read files; return their contents and, by key, the problems of files that cannot be read."""
    try:
        return files.read(keys), {}
    except IrregularFileError:
        found: dict[str, bytes] = {}
        problems = {}
        for key in keys:
            try:
                found |= files.read([key])
            except IrregularFileError as error:
                problems[key] = str(error).removeprefix(f"{files.path(key)} ")
        return found, problems


def plain_group_problem(content: bytes | None) -> str | None:
    """Return the problem of the zarr.json of a group that only contains groups; None if it is valid."""
    if content is None:
        return "is missing"
    try:
        document = parse_json(content)
    except ValueError as error:
        return f"is damaged: {error}"
    if isinstance(document, dict):
        document.pop(CONSOLIDATED, None)
    return None if document == PLAIN_GROUP else "is not a plain group of groups"


def check_parents(files: Files, group: str) -> None:
    """Check all parents of `group`.

    Raises:
        StoreError: a parent is missing or damaged.
    """
    keys = [join(parent, "zarr.json") for parent in parents(group)]
    found = files.read(keys)
    for key in keys:
        problem = plain_group_problem(found.get(key))
        if problem:
            raise StoreError(f"{files.path(key)} {problem}")


def write_parents(files: Files, group: str) -> None:
    """Create or repair all parents of `group`.

    Raises:
        StoreError: a parent is a group with its own contents.
    """
    keys = [join(parent, "zarr.json") for parent in parents(group)]
    found, _ = read_each(files, keys)
    for key in keys:
        content = found.get(key)
        if content is not None and _has_attributes(content):
            raise StoreError(f"{files.path(key)} is a group with its own contents, so it cannot contain {group!r}")
    for key in keys:
        if plain_group_problem(found.get(key)):
            files.write(key, json.dumps(PLAIN_GROUP).encode())


def _has_attributes(content: bytes) -> bool:
    try:
        document = parse_json(content)
    except ValueError:
        return False
    return isinstance(document, dict) and bool(document.get("attributes"))


def _checksum(own: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(canonical_json([own, attributes]).encode()).hexdigest()
    except RecursionError as error:
        raise ValueError("contains JSON that is nested too deeply") from error
