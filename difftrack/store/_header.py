"""The header of a group: one zarr.json whose attributes say what the group holds and prove that nothing was changed.

Its attributes hold `difftrack`: schema, contents, the SHA-256 of every small file of the group, whether the group is
complete, and a checksum over all of that. Bulk data carries its own checksums.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from difftrack.store._errors import StoreError
from difftrack.store._files import Files
from difftrack.store._spec import READABLE_VERSIONS, SCHEMA_VERSION, canonical_json

__all__ = ["Header", "check_parents", "join", "parents", "read_header", "write_parents"]

PLAIN_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


@dataclass(frozen=True, slots=True)
class Header:
    """What the zarr.json of a group says."""

    schema: str
    """`descriptors` or `results`."""
    contents: Mapping[str, Any]
    files: Mapping[str, str]
    """SHA-256 of each small file, by its key below the group."""
    complete: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The group's other attributes, for readers that know zarr only."""
    version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """The zarr.json."""
        own = {
            "schema": self.schema,
            "version": self.version,
            "contents": self.contents,
            "files": dict(sorted(self.files.items())),
            "complete": self.complete,
        }
        own["checksum"] = _checksum(own, self.attributes)
        document = {**PLAIN_GROUP, "attributes": {**self.attributes, "difftrack": own}}
        return json.dumps(document, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Header":
        """Read a zarr.json.

        Raises:
            ValueError: it is damaged, or of a version that is not known.
        """
        try:
            document = json.loads(content)
        except ValueError as error:
            raise ValueError("is not JSON") from error
        if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
            raise ValueError("is not a zarr group")
        attributes = dict(document["attributes"])
        own = attributes.pop("difftrack", None)
        if not isinstance(own, dict):
            raise ValueError("is not a group that difftrack wrote")
        if own.get("version") not in READABLE_VERSIONS:
            known = " and ".join(map(str, READABLE_VERSIONS))
            raise ValueError(f"has schema version {own.get('version')!r}; this program reads {known}")
        checksum = own.pop("checksum", None)
        if {**document, "attributes": {}} != PLAIN_GROUP or checksum != _checksum(own, attributes):
            raise ValueError("does not match its own checksum")
        return cls(own["schema"], own["contents"], own["files"], own["complete"], attributes, own["version"])


def join(*parts: str) -> str:
    """Join keys, leaving out empty ones."""
    return "/".join(part for part in parts if part)


def parents(group: str) -> list[str]:
    """The groups above a group, the root ("") first.

    Raises:
        StoreError: `group` is not a relative path of plain names.
    """
    names = group.split("/")
    for name in names:
        if not name or name.startswith((".", "__")) or name.endswith(".partial") or "\\" in name or name == "zarr.json":
            raise StoreError(f"group {group!r}: {name!r} cannot be the name of a group")
    return ["/".join(names[:depth]) for depth in range(len(names))]


def read_header(files: Files, group: str, *, schema: str) -> Header | None:
    """The header of a group; None where there is none.

    Raises:
        StoreError: it is damaged, or of another schema.
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
        raise StoreError(f"{files.path(key)} holds {header.schema}; {schema} wanted")
    return header


def small_file_problems(files: Files, group: str, header: Header) -> dict[str, str]:
    """What is wrong with each of a group's small files, by key below the root."""
    keys = {join(group, name): digest for name, digest in header.files.items()}
    found = files.read(list(keys))
    problems = {}
    for key, digest in keys.items():
        if key not in found:
            problems[key] = "is missing"
        elif hashlib.sha256(found[key]).hexdigest() != digest:
            problems[key] = "is damaged: its checksum differs"
    return problems


def plain_group_problem(content: bytes | None) -> str | None:
    """What is wrong with the zarr.json of a group that only holds groups."""
    if content is None:
        return "is missing"
    try:
        return None if json.loads(content) == PLAIN_GROUP else "is not a group of groups"
    except ValueError:
        return "is damaged: not JSON"


def check_parents(files: Files, group: str) -> None:
    """Make sure that all groups above `group` are what they should be.

    Raises:
        StoreError: one is missing or damaged.
    """
    keys = [join(parent, "zarr.json") for parent in parents(group)]
    found = files.read(keys)
    for key in keys:
        problem = plain_group_problem(found.get(key))
        if problem:
            raise StoreError(f"{files.path(key)} {problem}")


def write_parents(files: Files, group: str) -> None:
    """Create or repair all groups above `group`.

    Raises:
        StoreError: one of them is a group with contents of its own.
    """
    keys = [join(parent, "zarr.json") for parent in parents(group)]
    found = files.read(keys)
    for key in keys:
        content = found.get(key)
        if content is not None and _has_attributes(content):
            raise StoreError(f"{files.path(key)} is a group with contents of its own; {group!r} cannot lie in it")
    for key in keys:
        if plain_group_problem(found.get(key)):
            files.write(key, json.dumps(PLAIN_GROUP).encode())


def _has_attributes(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return isinstance(document, dict) and bool(document.get("attributes"))


def _checksum(own: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json([own, attributes]).encode()).hexdigest()
