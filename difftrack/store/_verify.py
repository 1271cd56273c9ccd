"""Listing the groups of a store and checking every file of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from difftrack.store._files import Files
from difftrack.store._header import Header, join, plain_group_problem, small_file_problems
from difftrack.store._schema import SCHEMA, GroupSchema
from difftrack.store._shards import shard_problem

__all__ = ["FileCheck", "check_files", "group_names"]


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What checking one file found."""

    path: str
    problem: str | None
    """None where the file is sound."""


def group_names(files: Files, schema: str) -> list[str]:
    """All groups of a schema below the root, sorted; groups with damaged headers are left out."""
    return [group for group, header, _ in _walk(files) if header is not None and header.schema == schema]


def check_files(files: Files) -> Iterator[FileCheck]:
    """Check every file that the headers name, every byte of it."""
    for group, header, problem in _walk(files):
        yield FileCheck(files.path(join(group, "zarr.json")), problem)
        if header is None:
            continue
        problems = small_file_problems(files, group, header)
        for name in header.files:
            key = join(group, name)
            yield FileCheck(files.path(key), problems.get(key))
        if header.schema == SCHEMA:
            yield from _check_shards(files, group, GroupSchema.from_header(header))


def _check_shards(files: Files, group: str, schema: GroupSchema) -> Iterator[FileCheck]:
    for unit in schema.spec.units:
        for layout in schema.layouts.values():
            key = join(group, layout.shard_key(*schema.indices(*unit)))
            yield FileCheck(files.path(key), shard_problem(files, key, layout, checksums=True))


def _walk(files: Files, group: str = "") -> Iterator[tuple[str, Header | None, str | None]]:
    """Every group, its header (None for groups of groups and damaged ones), what is wrong with its zarr.json."""
    key = join(group, "zarr.json")
    content = files.read([key]).get(key)
    problem = plain_group_problem(content)
    header = None
    if problem and content is not None:
        try:
            header = Header.from_bytes(content)
            problem = None if header.complete else "says that the group is incomplete"
        except ValueError as error:
            problem = str(error)
    yield group, header, problem
    if header is None:
        for name in files.directories(group):
            if not name.startswith(".") and not _is_array(files, join(group, name)):
                yield from _walk(files, join(group, name))


def _is_array(files: Files, key: str) -> bool:
    """Whether this is an array of a group whose own header is damaged."""
    content = files.read([join(key, "zarr.json")])
    return any(b'"node_type": "array"' in text for text in content.values())
