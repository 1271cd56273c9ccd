"""Read small files within limits: only regular files, with bounded size, depth and expansion.

A foreign file may be a FIFO, a device, a million brackets, or a few bytes that expand to terabytes. Every function in
this module reports that with a one-line error before it blocks or allocates memory.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

__all__ = [
    "MAX_JSON_BYTES",
    "DocumentError",
    "open_regular",
    "parse_json",
    "parse_yaml",
    "read_bounded",
    "read_json",
    "read_yaml",
]

MAX_JSON_BYTES = 64 << 20
"""Maximum size of a JSON file; the largest files of this project have a few hundred kilobytes."""

MAX_YAML_BYTES = 1 << 20
"""Maximum size of a params file in bytes."""

MAX_YAML_NODES = 100_000
"""Maximum number of values in a params file, counted after expanding its aliases."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class DocumentError(ValueError):
    """A file is of the wrong kind or exceeds a limit; the message names it."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for unbuffered reading. Other kinds of files are never opened, so this cannot block.

    Raises:
        FileNotFoundError: the file does not exist.
        DocumentError: the path is not a regular file, or cannot be read.
    """
    try:
        _refuse_irregular(path, path.stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: the file does not exist") from error
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        _refuse_irregular(path, os.fstat(descriptor).st_mode)  # again, because the path may have been replaced
        yield file


def read_bounded(path: Path, *, max_bytes: int) -> bytes:
    """Read a whole regular file.

    Raises:
        FileNotFoundError: the file does not exist.
        DocumentError: the path is not a regular file, cannot be read, or is larger than `max_bytes`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise DocumentError(f"{path} has {size} bytes; at most {max_bytes} are read")
        content = bytearray()
        try:
            while len(content) <= max_bytes and (part := file.read(max(size - len(content), 0) + 1)):
                content += part
        except OSError as error:
            raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise DocumentError(f"{path} has more than {max_bytes} bytes, the most that are read")
    return bytes(content)


def parse_json(content: bytes | str) -> Any:  # noqa: ANN401
    """Parse JSON.

    Raises:
        ValueError: the content is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("contains JSON that is nested too deeply") from error
    except ValueError as error:
        raise ValueError("is not JSON") from error


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        DocumentError: the file is not regular, too large, not JSON, or nested too deeply.
    """
    try:
        return parse_json(read_bounded(path, max_bytes=MAX_JSON_BYTES))
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(f"{path} {error}") from error


class _Loader(yaml.SafeLoader):
    """Loads plain values, with numbers as in YAML 1.2 and DVC: `1e-3` is one, though YAML 1.1 wants `1.0e-3`."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(content: bytes | str) -> Any:  # noqa: ANN401
    """Parse YAML of plain values.

    Raises:
        yaml.YAMLError: the content is not YAML, or names an object.
    """
    loader = _Loader(content)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path) -> Any:  # noqa: ANN401
    """Read a YAML file of plain values.

    Raises:
        FileNotFoundError: the file does not exist.
        DocumentError: the file is not regular, too large, not YAML, nested too deeply, or its aliases expand too far.
    """
    content = read_bounded(path, max_bytes=MAX_YAML_BYTES)
    try:
        values = parse_yaml(content)
        num_nodes = _num_nodes(values, {})
    except yaml.YAMLError as error:
        raise DocumentError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise DocumentError(f"{path} contains YAML that is nested too deeply or refers to itself") from error
    except (ValueError, TypeError) as error:  # an invalid date, number or key
        raise DocumentError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if num_nodes > MAX_YAML_NODES:
        raise DocumentError(
            f"{path} expands to {num_nodes:.3g} values with its aliases; at most {MAX_YAML_NODES} are read"
        )
    return values


def _refuse_irregular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise DocumentError(f"{path} is {kind}; it must be a regular file")


def _num_nodes(value: Any, counted: dict[int, int]) -> int:  # noqa: ANN401
    """Count all values after expanding aliases; every container is visited once."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in counted:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_num_nodes(part, counted) for part in parts)
    return counted[id(value)]
