"""Read pickles that contain only arrays and plain containers, without running any of their code.

Python's unpickler calls functions that the file names; here no opcode can call anything. The standard library's opcode
parser (`pickletools.genops`) walks through the file. A small stack machine builds dicts, lists, tuples, strings,
numbers and placeholders for arrays. Long runs of bytes (frames) are not kept: a placeholder stores their position in
the file and reads them on request. A data set of many gigabytes is therefore indexed in one pass with one clip in
memory at a time, its clips can be read in any order, and a truncated file still gives the clips before the cut.

Sizes declared in the file are checked against its length. A run of bytes is never longer than the rest of the file.
Nested lists, which a pickle can repeat by reference, never expand to more elements than the file has bytes.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from difftrack.datasets._errors import DatasetError

__all__ = ["PickleIndex", "check_unfolded", "fetch", "index_pickle"]

_KEPT_BYTES = 256
"""Maximum length of runs of bytes kept in memory; these are parts of type descriptions, not frames."""
_DEEPEST = 32
"""Maximum nesting of lists; NumPy allows 64 axes, TAP-Vid uses 4."""
_KEYS = (str, bytes, int, float, bool, np.generic, type(None))
"""Allowed types of dict keys; hashing a deeply nested tuple could overflow the interpreter's stack."""
_ELEMENT_KINDS = "biufSUO"
"""Allowed kinds of array elements: booleans, numbers, text, and objects that this module allows."""

_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES"}
)
"""Opcodes that push their argument."""
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_PAYLOAD_AT = {"BINBYTES": 5, "BINBYTES8": 9, "BYTEARRAY8": 9, "BINSTRING": 5}
"""Number of bytes from an opcode to its payload."""
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})

_GLOBALS = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy._core.numeric._frombuffer": "frombuffer",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
    "builtins.bytes": "bytes",
    "__builtin__.bytes": "bytes",
}
"""Allowed names and their meaning in this module; none of them is imported or called."""


@dataclass(frozen=True, slots=True)
class PickleIndex:
    """The structure of a pickle, with placeholders for its arrays."""

    root: dict[Any, Any] | list[Any]
    cut: str | None
    """For a truncated file, why entries are missing at the end; an incomplete entry is None. None for a complete
    file."""
    size: int
    """Size of the file in bytes."""


@dataclass(frozen=True, slots=True)
class _StoredBytes:
    path: Path
    offset: int
    length: int

    def load(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(slots=True)
class _ElementType:
    dtype: np.dtype[Any]


@dataclass(slots=True)
class _StoredArray:
    shape: tuple[int, ...] = ()
    element: _ElementType = field(default_factory=lambda: _ElementType(np.dtype("f4")))
    order: Literal["C", "F"] = "C"
    content: _StoredBytes | bytes | list[Any] = b""

    def load(self) -> np.ndarray:
        try:
            if not isinstance(self.content, list):
                return np.frombuffer(fetch(self.content), dtype=self.element.dtype).reshape(
                    self.shape, order=self.order
                )
            elements = np.empty(len(self.content), dtype=object)
            for index, element in enumerate(self.content):
                elements[index] = fetch(element)
            return elements.reshape(self.shape, order=self.order)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            type_name = self.element.dtype
            raise DatasetError(f"an array of shape {self.shape} and type {type_name} is damaged ({error})") from error


class _Mark:
    """Marks the start of a run of items on the stack."""


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def fetch(value: Any) -> Any:  # noqa: ANN401 - a pickle contains any type
    """Read the content of a placeholder; any other value is returned unchanged.

    Raises:
        DatasetError: an array's content does not fill its shape.
    """
    return value.load() if isinstance(value, _StoredArray | _StoredBytes) else value


def check_unfolded(value: Any, most: int) -> None:  # noqa: ANN401 - a pickle contains any type
    """Check that nested lists expand to at most `most` elements; a list counts each time it is referenced.

    Raises:
        DatasetError: there are more elements, or the nesting is deeper than in any array.
    """
    counted: dict[int, int] = {}

    def count(item: Any, depth: int) -> int:  # noqa: ANN401
        if not isinstance(item, list | tuple):
            return 1
        if depth > _DEEPEST:
            raise DatasetError(f"lists are nested more than {_DEEPEST} deep")
        if id(item) not in counted:
            counted[id(item)] = sum(count(part, depth + 1) for part in item)
        return counted[id(item)]

    unfolded = count(value, 0)
    if unfolded > most:
        raise DatasetError(f"nested lists expand to {unfolded} elements, more than the {most} bytes of their file")


def index_pickle(path: Path) -> PickleIndex:
    """Read the structure of a pickle whose top level is a dict or a list.

    Raises:
        DatasetError: the file contains anything but arrays and plain containers, is not a pickle, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path}: is not a regular file")
    machine = _Machine(path)
    cut = None
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for opcode, argument, position in pickletools.genops(cast(BinaryIO, _Bounded(file, size))):
                machine.take(opcode.name, argument, position or 0)
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        cut = f"{path.name} is truncated or damaged ({error})"
        machine.salvage()
    root = machine.stack[0] if machine.stack else None
    if not isinstance(root, dict | list):
        raise DatasetError(f"{path}: is not a pickled dict or list of clips" + (f": {cut}" if cut else ""))
    return PickleIndex(root=root, cut=cut, size=size)


class _Bounded:
    """A file that refuses to read beyond its end before memory is allocated."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int) -> bytes:
        """Read exactly `count` bytes or none."""
        left = self._size - self._file.tell()
        if count > left:
            raise ValueError(f"{count} bytes are declared, but only {left} are left")
        return self._file.read(count)


class _Machine:
    """The part of pickle's stack machine that is needed for data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, name: str, argument: Any, position: int) -> None:  # noqa: ANN401
        """Execute one opcode."""
        if name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _PAYLOAD_AT:
            content = argument.encode("latin-1") if isinstance(argument, str) else bytes(argument)
            stored = _StoredBytes(self.path, position + _PAYLOAD_AT[name], len(content))
            self.stack.append(content if len(content) <= _KEPT_BYTES else stored)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _IGNORED:
            raise DatasetError(
                f"{self.path}: pickle opcode {name} is refused; only arrays and plain containers are read"
            )

    def salvage(self) -> None:
        """Move top-level entries from the stack into the root container; an incomplete entry becomes None."""
        entries = self.stack[1:]
        if entries and isinstance(entries[0], _Mark):
            del entries[0]
        within = next((index for index, item in enumerate(entries) if isinstance(item, _Mark)), None)
        if within:
            entries[within - 1 :] = [None]
        root = self.stack[0] if self.stack else None
        if isinstance(root, list):
            root.extend(entries)
        elif isinstance(root, dict):
            names = [name if isinstance(name, _KEYS) else str(type(name)) for name in entries[::2]]
            root.update(zip(names, [*entries[1::2], None], strict=False))

    def remember(self, index: int | None) -> None:
        """Execute PUT or MEMOIZE; MEMOIZE has no index and numbers its entries itself."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Execute GET."""
        self.stack.append(self.memo[index])

    def since_mark(self) -> list[Any]:
        """Pop all items above the last mark, and the mark."""
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def pop(self, count: int) -> list[Any]:
        """Pop the last `count` items and return them in the order in which they were pushed."""
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def append(self, items: list[Any]) -> None:
        """Extend the list on top of the stack."""
        self.stack[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        """Add keys and values to the dict on top of the stack."""
        self.stack[-1].update(self.paired(items))

    def name(self, module: object, name: object) -> None:
        """Push the meaning of an allowed name; refuse any other name, and what is no name."""
        known = _GLOBALS.get(f"{module}.{name}") if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            raise DatasetError(
                f"{self.path}: the pickle names {module}.{name}; only arrays and plain containers are read"
            )
        self.stack.append(_Global(known))

    def reduce(self) -> None:
        """Replace a call of an allowed name by its placeholder or value."""
        target, arguments = self.pop(2)
        match target, arguments:
            case _Global("array"), _:
                self.stack.append(_StoredArray())
            case _Global("dtype"), (str() as text, *_):
                self.stack.append(self._element_type(text))
            case _Global("frombuffer"), (content, _ElementType() as element, tuple() as shape, "C" | "F" as order):
                self.stack.append(_StoredArray(shape, element, order, content))
            case _Global("scalar"), (_ElementType(dtype), bytes() as content):
                self.stack.append(np.frombuffer(content, dtype=dtype)[0])
            case _Global("encode"), (str() as text, _):
                self.stack.append(text.encode("latin-1"))
            case _Global("bytes"), ():
                self.stack.append(b"")
            case _:
                named = target.name if isinstance(target, _Global) else f"a {type(target).__name__}"
                raise DatasetError(f"{self.path}: the pickle calls {named} in a way that arrays do not need")

    def build(self) -> None:
        """Set an array's content, or an element type's byte order."""
        target, state = self.pop(2)
        match target, state:
            case _ElementType(dtype), (_, "<" | ">" | "=" | "|" as byte_order, None, None, *_):
                target.dtype = dtype.newbyteorder(byte_order)
            case _StoredArray(), (_, tuple() as shape, _ElementType() as element, in_fortran_order, content):
                target.shape, target.element, target.order = shape, element, "F" if in_fortran_order else "C"
                target.content = content.encode("latin-1") if isinstance(content, str) else content
            case _:
                raise DatasetError(
                    f"{self.path}: the pickle contains a {type(target).__name__} with state; only arrays are read"
                )
        self.stack.append(target)

    def paired(self, items: list[Any]) -> dict[Any, Any]:
        """Make a dict from alternating keys and values."""
        for key in items[::2]:
            if not isinstance(key, _KEYS):
                raise DatasetError(f"{self.path}: the pickle has a {type(key).__name__} as a key; only names are read")
        return dict(zip(items[::2], items[1::2], strict=True))

    def _element_type(self, text: str) -> _ElementType:
        dtype = np.dtype("O") if text.startswith("O") else np.dtype(text)
        if dtype.kind not in _ELEMENT_KINDS:
            raise DatasetError(f"{self.path}: the pickle contains an array of {text!r}; only numbers and text are read")
        return _ElementType(dtype)


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.stack.append(_Mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop(3))),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": lambda machine, _: machine.stack.append(machine.paired(machine.since_mark())),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set(machine.since_mark()),
    "GET": lambda machine, index: machine.recall(index),
    "BINGET": lambda machine, index: machine.recall(index),
    "LONG_BINGET": lambda machine, index: machine.recall(index),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    "GLOBAL": lambda machine, words: machine.name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.pop(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
