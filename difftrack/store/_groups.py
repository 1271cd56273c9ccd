"""List, lock and remove the groups of a store."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from difftrack.documents import parse_json
from difftrack.locks import Say
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import StorePath, open_files
from difftrack.store._group_metadata import join, parents, plain_group_problem, read_each
from difftrack.store._locks import held_group
from difftrack.store._schema import SCHEMA, read_schema
from difftrack.store._verify import group_names, walk

__all__ = [
    "StoredGroup",
    "descriptor_groups",
    "foreign_group",
    "hold_group",
    "keep_groups",
    "remove_group",
    "store_url",
    "stored_group",
    "stored_groups",
    "surplus_groups",
]


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """One group of descriptors, complete or incomplete."""

    name: str
    num_bytes: int
    """Size of all its files."""
    contents: dict[str, Any]
    """Contents in its header: `spec`, `params`, `fingerprint` and optionally `made_by`, as JSON."""


def store_url(root: StorePath) -> str:
    """Return a store's path or URL for other libraries; a URL that was converted to a `Path` is repaired."""
    return open_files(root).path("").rstrip("/")


def descriptor_groups(root: StorePath) -> list[str]:
    """List the names of all groups of descriptors with readable headers, sorted."""
    return group_names(open_files(root), SCHEMA)


def stored_group(root: StorePath, name: str) -> StoredGroup | None:
    """Return a group of descriptors; None if there is none with a readable header."""
    files = open_files(root)
    try:
        found = read_schema(files, name)
    except StoreError:
        return None
    return None if found is None else StoredGroup(name, files.size(name), dict(found[0].contents))


def stored_groups(root: StorePath) -> list[StoredGroup]:
    """List all groups of descriptors with readable headers, sorted by name."""
    groups = (stored_group(root, name) for name in descriptor_groups(root))
    return [group for group in groups if group is not None]


@contextmanager
def hold_group(root: StorePath, group: str, *, wait_s: float = 0.0, say: Say = lambda line: None) -> Iterator[None]:
    """Lock a group, which need not exist, so that only this process can write, move or remove it.

    Args:
        root: The store.
        group: Name of the group.
        wait_s: Maximum time to wait for another process, in seconds.
        say: Called with the process that is awaited, and with a killed process whose lock was recovered.

    Raises:
        StoreError: another process still writes the group after `wait_s`.
    """
    parents(group)
    with held_group(open_files(root), group, wait_s=wait_s, say=say):
        yield


def foreign_group(root: StorePath, group: str = "") -> str | None:
    """Return the first folder, at or inside a group, that this project did not write; None if there is none.

    The zarr.json proves a group: it is a header from `difftrack`, complete or not, or, for a group of groups, zarr's
    plain metadata with only groups inside.
    """
    files = open_files(root)
    key = join(group, "zarr.json")
    content = read_each(files, [key])[0].get(key)
    if content is None:
        return files.path(group)
    if plain_group_problem(content) is None:
        inner = (foreign_group(root, join(group, name)) for name in files.directories(group))
        return next((found for found in inner if found is not None), None)
    try:
        own = parse_json(content)["attributes"]["difftrack"]
        known = isinstance(own, dict) and {"schema", "files", "checksum"} <= own.keys()
    except (ValueError, KeyError, TypeError):
        known = False
    return None if known else files.path(group)


def remove_group(root: StorePath, group: str) -> None:
    """Remove a group with its contents, or, with an empty name, the whole store.

    Raises:
        StoreError: the group contains something that this project did not write, or another process writes a group in
            it; nothing is removed.
    """
    files = open_files(root)
    if not files.size(group):
        return
    if stranger := foreign_group(root, group):
        raise StoreError(f"{stranger} is not a group of the store and was not removed; move it elsewhere")
    with ExitStack() as held:
        for name in [name for name, _, problem in walk(files, group) if problem != "is missing"]:
            held.enter_context(held_group(files, name))
        files.remove(f"{group}/zarr.json" if group else "zarr.json")  # first: a partial group must not be read
        files.remove(group)


def keep_groups(root: StorePath, names: Collection[str], *, inside: str = "") -> None:
    """Remove all top-level groups of a store, or of a group of groups, except those in `names`.

    Args:
        root: The store.
        names: Names of groups to keep; they need not exist.
        inside: A group of groups to clean instead of the store.

    Raises:
        StoreError: there is something that is not a group; nothing is removed.
    """
    for name in surplus_groups(root, names, inside=inside):
        remove_group(root, name)


def surplus_groups(root: StorePath, names: Collection[str], *, inside: str = "") -> list[str]:
    """List the top-level groups of a store, or of a group of groups, except those in `names`.

    Args:
        root: The store.
        names: Names of groups to leave out; they need not exist.
        inside: A group of groups to list instead of the store.

    Raises:
        StoreError: a folder is not a group, or contains something that is not a group.
    """
    files = open_files(root)
    gone = [join(inside, name) for name in files.directories(inside) if name not in names]
    for name in gone:
        if stranger := foreign_group(root, name):
            raise StoreError(f"{stranger} is not a group of the store; move it elsewhere")
    return gone
