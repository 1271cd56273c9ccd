"""Groups as a whole: what lies in a store, and removing what should not."""

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
        found = read_schema(files, name)
    except StoreError:
        return None
    return None if found is None else StoredGroup(name, files.size(name), dict(found[0].contents))


def stored_groups(root: StorePath) -> list[StoredGroup]:
    """All groups of descriptors whose headers can be read, sorted by name."""
    groups = (stored_group(root, name) for name in descriptor_groups(root))
    return [group for group in groups if group is not None]


@contextmanager
def hold_group(root: StorePath, group: str, *, wait_s: float = 0.0, say: Say = lambda line: None) -> Iterator[None]:
    """Keep other processes from writing a group, which need not be there; this process may write, move or remove it.

    Args:
        root: The store.
        group: Name of the group.
        wait_s: How long to wait while another process writes it.
        say: Told which process that is, and of a lock that one left that was killed.

    Raises:
        StoreError: another process writes it, and has not let go after `wait_s`.
    """
    parents(group)
    with held_group(open_files(root), group, wait_s=wait_s, say=say):
        yield


def foreign_group(root: StorePath, group: str = "") -> str | None:
    """Name the first folder, at a place in a store or below it, that this project did not write; None for none.

    A group proves itself by its zarr.json: the header that `difftrack` wrote, whole or not, or, for a group of groups,
    zarr's plain one with nothing else inside.
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
    """Remove a group with all that is in it, or with an empty name the whole store.

    Raises:
        StoreError: it, or something in it, is no group that this project wrote, or another process writes one; nothing
            is removed then.
    """
    files = open_files(root)
    if not files.size(group):
        return
    if stranger := foreign_group(root, group):
        raise StoreError(f"{stranger} is no group of the store and is not removed; move it elsewhere")
    with ExitStack() as held:
        for name in [name for name, _, problem in walk(files, group) if problem != "is missing"]:
            held.enter_context(held_group(files, name))
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
    for name in surplus_groups(root, names, inside=inside):
        remove_group(root, name)


def surplus_groups(root: StorePath, names: Collection[str], *, inside: str = "") -> list[str]:
    """Names of the groups at the top of a store, or of a group of groups, but those that are named.

    Args:
        root: The store.
        names: Of groups that are wanted, whether they are there or not.
        inside: A group of groups in which to look instead.

    Raises:
        StoreError: one of them is no group, or holds something that is none.
    """
    files = open_files(root)
    gone = [join(inside, name) for name in files.directories(inside) if name not in names]
    for name in gone:
        if stranger := foreign_group(root, name):
            raise StoreError(f"{stranger} is no group of the store; move it elsewhere")
    return gone
