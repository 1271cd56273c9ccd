"""Groups as a whole: what lies in a store, and removing what should not."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from difftrack.store._errors import StoreError
from difftrack.store._files import StorePath, open_files
from difftrack.store._header import read_header
from difftrack.store._schema import SCHEMA
from difftrack.store._verify import group_names

__all__ = [
    "StoredGroup",
    "descriptor_groups",
    "keep_groups",
    "remove_group",
    "store_url",
    "stored_group",
    "stored_groups",
]


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """One group of descriptors, complete or not."""

    name: str
    num_bytes: int
    """Of all its files."""
    contents: dict[str, Any]
    """What its header says that it holds: `spec`, `params`, `fingerprint` and perhaps `made_by`, as JSON."""


def store_url(root: StorePath) -> str:
    """A store's path or URL as other libraries want it: a URL that went through `Path` has both its slashes again."""
    return open_files(root).path("").rstrip("/")


def descriptor_groups(root: StorePath) -> list[str]:
    """Names of all groups of descriptors whose headers can be read, sorted."""
    return group_names(open_files(root), SCHEMA)


def stored_group(root: StorePath, name: str) -> StoredGroup | None:
    """A group of descriptors; None where there is none, or none whose header can be read."""
    files = open_files(root)
    try:
        header = read_header(files, name, schema=SCHEMA)
    except StoreError:
        return None
    return None if header is None else StoredGroup(name, files.size(name), dict(header.contents))


def stored_groups(root: StorePath) -> list[StoredGroup]:
    """All groups of descriptors whose headers can be read, sorted by name."""
    groups = (stored_group(root, name) for name in descriptor_groups(root))
    return [group for group in groups if group is not None]


def remove_group(root: StorePath, group: str) -> None:
    """Remove a group with all that is in it, or with an empty name the whole store."""
    files = open_files(root)
    files.remove(f"{group}/zarr.json" if group else "zarr.json")  # first: half a group must not look like one
    files.remove(group)


def keep_groups(root: StorePath, names: Collection[str], *, inside: str = "") -> None:
    """Remove every group at the top of a store, or group of groups, but those that are named.

    Args:
        root: The store.
        names: Of groups that stay, whether they are there or not.
        inside: A group of groups in which to do so instead.

    Raises:
        StoreError: something else lies there; nothing is removed then.
    """
    files = open_files(root)
    above = f"{inside}/" if inside else ""
    gone = [f"{above}{name}" for name in files.directories(inside) if name not in names]
    strangers = [name for name in gone if not files.read([f"{name}/zarr.json"])]
    if strangers:
        raise StoreError(f"{files.path(strangers[0])} is no group of the store; move it elsewhere")
    for name in gone:
        remove_group(root, name)
