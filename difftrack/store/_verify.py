"""Listing the groups of a store and checking every file of them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from difftrack.documents import parse_json
from difftrack.store._errors import IrregularFileError, StoreError
from difftrack.store._filesystem import Files
from difftrack.store._group_metadata import Header, join, plain_group_problem, small_file_problems
from difftrack.store._schema import SCHEMA, GroupSchema
from difftrack.store._shards import shard_problem

__all__ = ["FileCheck", "check_files", "group_names", "walk"]

UNPROVEN = (
    "was finished by a program that kept no checksums of units in the header: that no unit lies in the place of another"
    " of the same shape cannot be proven; run what wrote it again, which adds them and keeps the units"
)

DEEPEST = 16
"""Levels of groups that are looked at; the store itself makes two."""

MOST_ALIASES = 8
"""Names under which one folder of groups is looked at."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What checking one file found."""

    path: str
    problem: str | None
    """None where the file is sound."""
    unproven: str | None = None
    """What cannot be known of the group whose header this is; None where everything is."""


def group_names(files: Files, schema: str) -> list[str]:
    """All groups of a schema below the root, sorted; groups with damaged headers are left out."""
    return [group for group, header, _ in walk(files) if header is not None and header.schema == schema]


def check_files(files: Files) -> Iterator[FileCheck]:
    """Check every file that the headers name, every byte of it."""
    for group, header, problem in walk(files):
        path, schema = files.path(join(group, "zarr.json")), None
        if header is None:
            yield FileCheck(path, problem)
            continue
        if header.schema == SCHEMA:
            try:
                schema = GroupSchema.from_header(header)
            except ValueError as error:
                problem = str(error)
        unproven = schema is not None and header.complete and not header.units
        yield FileCheck(path, problem, UNPROVEN if unproven else None)
        problems = small_file_problems(files, group, header)
        for name in header.files:
            key = join(group, name)
            yield FileCheck(files.path(key), problems.get(key))
        if schema is not None:
            yield from _check_shards(files, group, header, schema)


def _check_shards(files: Files, group: str, header: Header, schema: GroupSchema) -> Iterator[FileCheck]:
    checksums = header.unit_checksums(schema.unit_shapes)
    for number, unit in enumerate(schema.spec.units):
        for name, layout in schema.layouts.items():
            key = join(group, layout.shard_key(*schema.indices(*unit)))
            expected = checksums[name][number] if checksums else None
            yield FileCheck(files.path(key), shard_problem(files, key, layout, content=True, checksums=expected))


def walk(files: Files, start: str = "") -> Iterator[tuple[str, Header | None, str | None]]:
    """Every group from one on, its header (None for groups of groups and damaged ones), what is wrong with it."""
    waiting: list[tuple[str, frozenset[str]]] = [(start, frozenset())]
    seen = Counter[str]()
    while waiting:
        group, above = waiting.pop()
        header, problem = _read_group(files, group)
        yield group, header, problem
        identity = files.identity(group)
        if header is not None or identity in above or seen[identity] == MOST_ALIASES or len(above) == DEEPEST:
            continue  # links may lead in circles, or one folder have many names
        seen[identity] += 1
        below = [join(group, name) for name in files.directories(group)]
        waiting += [(name, above | {identity}) for name in reversed(below) if _is_group(files, name)]


def _read_group(files: Files, group: str) -> tuple[Header | None, str | None]:
    key = join(group, "zarr.json")
    try:
        content = files.read([key]).get(key)
        problem = plain_group_problem(content)
        if problem is None or content is None:
            return None, problem
        header = Header.from_bytes(content)
    except IrregularFileError as error:
        return None, str(error).removeprefix(f"{files.path(key)} ")
    except StoreError:  # a URL that has no answer says nothing of its files
        raise
    except ValueError as error:
        return None, str(error)
    return header, None if header.complete else "says that the group is incomplete"


def _is_group(files: Files, key: str, levels: int = 2) -> bool:
    """Whether a folder is a group, or was one before it lost its zarr.json; no array, and nothing of other programs."""
    try:
        content = files.read([join(key, "zarr.json")])
    except IrregularFileError:
        return True  # and what is wrong with it is to be said
    if content:
        return not any(map(_is_array, content.values()))
    return levels > 0 and any(_holds_metadata(files, join(key, name), levels) for name in files.directories(key))


def _is_array(content: bytes) -> bool:
    """Whether a zarr.json is of an array, sound or not."""
    try:
        document = parse_json(content)
    except ValueError:
        return b'"node_type": "array"' in content
    return isinstance(document, dict) and document.get("node_type") == "array"


def _holds_metadata(files: Files, key: str, levels: int) -> bool:
    try:
        return bool(files.read([join(key, "zarr.json")])) or _is_group(files, key, levels - 1)
    except IrregularFileError:
        return True
