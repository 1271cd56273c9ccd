"""Reads small files within bounds: regular files only, of bounded size, depth and expansion.

A file that comes from elsewhere may be a FIFO, a device, a million brackets, or a few bytes that stand for terabytes.
Every function here says so in one line, before it waits or takes memory.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

__all__ = ["MAX_JSON_BYTES", "DocumentError", "open_regular", "parse_json", "read_bounded", "read_json", "read_yaml"]

MAX_JSON_BYTES = 64 << 20
"""Most bytes of a JSON file; the largest that this project writes have some hundred kilobytes."""

MAX_YAML_BYTES = 1 << 20
"""Most bytes of a params file."""

MAX_YAML_NODES = 100_000
"""Most values of a params file, each alias counted with all that it stands for."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class DocumentError(ValueError):
    """A file is not of the kind or within the bounds that are wanted; the message names it."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, without a buffer; nothing else is opened, not even for a moment of waiting.

    Raises:
        FileNotFoundError: there is none.
        DocumentError: it is something else, or cannot be read.
    """
    try:
        _refuse_irregular(path, path.stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: there is no such file") from error
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        _refuse_irregular(path, os.fstat(descriptor).st_mode)  # what is open, whatever has taken its name since
        yield file


def read_bounded(path: Path, *, max_bytes: int) -> bytes:
    """Read a whole regular file.

    Raises:
        FileNotFoundError: there is none.
        DocumentError: it is no regular file, cannot be read, or is larger than `max_bytes`.
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
        raise DocumentError(f"{path} has more than {max_bytes} bytes; at most that many are read")
    return bytes(content)


def parse_json(content: bytes | str) -> Any:  # noqa: ANN401
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("is JSON that is nested too deeply") from error
    except ValueError as error:
        raise ValueError("is not JSON") from error


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        DocumentError: it is no regular file, too large, not JSON, or nested too deeply.
    """
    try:
        return parse_json(read_bounded(path, max_bytes=MAX_JSON_BYTES))
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(f"{path} {error}") from error


def read_yaml(path: Path) -> Any:  # noqa: ANN401
    """Read a YAML file of plain values.

    Raises:
        FileNotFoundError: there is none.
        DocumentError: it is no regular file, too large, not YAML, nested too deeply, or its aliases stand for too much.
    """
    content = read_bounded(path, max_bytes=MAX_YAML_BYTES)
    try:
        values = yaml.safe_load(content)
        num_nodes = _num_nodes(values, {})
    except yaml.YAMLError as error:
        raise DocumentError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise DocumentError(f"{path} is YAML that is nested too deeply or holds itself") from error
    except (ValueError, TypeError) as error:  # a date or a number that Python cannot hold, a key that cannot be one
        raise DocumentError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if num_nodes > MAX_YAML_NODES:
        raise DocumentError(f"{path} stands for {num_nodes:.3g} values with its aliases; {MAX_YAML_NODES} are allowed")
    return values


def _refuse_irregular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise DocumentError(f"{path} is {kind}; a regular file is wanted")


def _num_nodes(value: Any, counted: dict[int, int]) -> int:  # noqa: ANN401
    """Values in all, each alias counted with what it stands for; every container is looked at once."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in counted:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_num_nodes(part, counted) for part in parts)
    return counted[id(value)]
