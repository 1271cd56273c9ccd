"""List the groups of a store and check all of their files."""

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
    "was finished by an earlier version without checksums of units in the header, so swapped units of the same shape"
    " cannot be detected; run the stage that wrote it again, which adds the checksums and keeps the units"
)

DEEPEST = 16
"""Maximum depth of nested groups; the store itself uses two levels."""

MOST_ALIASES = 8
"""Maximum number of names (links) under which one folder of groups is visited."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The result of checking one file."""

    path: str
    problem: str | None
    """The problem; None if the file is valid."""
    unproven: str | None = None
    """What cannot be proven about the header's group; None if everything can."""


def group_names(files: Files, schema: str) -> list[str]:
    """List all groups with a schema in the root, sorted; groups with damaged headers are left out."""
    return [group for group, header, _ in walk(files) if header is not None and header.schema == schema]


def check_files(files: Files) -> Iterator[FileCheck]:
    """Check every byte of every file that the headers list."""
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
    """Yield a group and all groups in it, each with its header (None for plain or damaged groups) and its problem."""
    waiting: list[tuple[str, frozenset[str]]] = [(start, frozenset())]
    seen = Counter[str]()
    while waiting:
        group, above = waiting.pop()
        header, problem = _read_group(files, group)
        yield group, header, problem
        identity = files.identity(group)
        if header is not None or identity in above or seen[identity] == MOST_ALIASES or len(above) == DEEPEST:
            continue  # links may form cycles, or give one folder many names
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
    except StoreError:  # if the URL cannot be reached, nothing is known about its files
        raise
    except ValueError as error:
        return None, str(error)
    return header, None if header.complete else "says that the group is incomplete"


def _is_group(files: Files, key: str, levels: int = 2) -> bool:
    """Whether a folder is a group, or was one before its zarr.json was lost; arrays and foreign folders are not."""
    try:
        content = files.read([join(key, "zarr.json")])
    except IrregularFileError:
        return True  # so that its problem is reported
    if content:
        return not any(map(_is_array, content.values()))
    return levels > 0 and any(_holds_metadata(files, join(key, name), levels) for name in files.directories(key))


def _is_array(content: bytes) -> bool:
    """Whether a zarr.json, valid or damaged, describes an array."""
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
