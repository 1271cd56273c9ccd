"""Registries of extensible parts: built-in entries, entries of installed packages, and entries registered at run time.

An installed package adds an entry with an entry point in the registry's group. Built-in entries are also entry points,
but defined in code instead of package metadata, so that a checkout works without installation.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

__all__ = ["PluginError", "Registry", "one_line"]

T = TypeVar("T")

_LOG = logging.getLogger("difftrack")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class PluginError(ValueError):
    """An entry is unknown, has the wrong type, or cannot be loaded; the one-line message lists the known entries."""


def one_line(error: BaseException) -> str:
    """Describe an exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Registry(Generic[T]):
    """Named entries of one kind; each is loaded at its first use.

    Args:
        group: Group of the entry points, such as `difftrack.trackers`.
        noun: Word for an entry in messages, such as `tracker`.
        built_in: Name -> `module:attribute`.
        check: Returns a valid entry; raises `ValueError` or `TypeError` with the cause for an invalid one.
        reserved: Names that have another meaning and cannot be used.
    """

    def __init__(
        self,
        group: str,
        *,
        noun: str,
        built_in: Mapping[str, str],
        check: Callable[[str, Any], T],
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        self.group = group
        self.noun = noun
        self._built_in = built_in
        self._check = check
        self._reserved = reserved
        self._points: dict[str, _Point] | None = None
        self._loaded: dict[str, T] = {}
        self._registered: dict[str, T] = {}
        self._failed: dict[str, str] = {}
        self._problems: dict[str, str] = {}

    def names(self) -> tuple[str, ...]:
        """List all names: built-in entries first, then entries of installed packages, then registered ones.

        No package is imported.
        """
        return (*self._entries(), *(name for name in self._registered if name not in self._entries()))

    def get(self, name: str) -> T:
        """Return the entry with a name.

        Raises:
            PluginError: the name is unknown, or the entry cannot be loaded.
        """
        if name in self._registered:
            return self._registered[name]
        points = self._entries()
        if name not in points:
            raise PluginError(self.unknown(name))
        if name in self._failed:
            raise PluginError(self._failed[name])
        if name not in self._loaded:
            try:
                self._loaded[name] = self._check(name, points[name].load())
            except (Exception, SystemExit) as error:
                line = f"{self.noun} {name!r} from {points[name].giver} cannot be loaded ({one_line(error)})"
                self._failed[name] = line
                self.note(name, line)
                raise PluginError(line) from error
        return self._loaded[name]

    def items(self) -> dict[str, T]:
        """Return all entries that can be loaded; the others are left out and reported once in the log."""
        found = {}
        for name in self.names():
            try:
                found[name] = self.get(name)
            except PluginError:
                continue
        return found

    def register(self, name: str, entry: Any, *, replace: bool = False) -> None:  # noqa: ANN401
        """Add an entry for this process.

        Args:
            name: Name of the entry.
            entry: The entry itself.
            replace: Whether to replace an entry registered earlier, for example when a notebook cell runs again.
                Built-in entries and entries of installed packages are never replaced.

        Raises:
            PluginError: the name is taken or invalid, or the entry is invalid.
        """
        self._refuse_name(name)
        points = self._entries()
        if name in points:
            raise PluginError(f"{self.noun} {name!r} already exists in {points[name].giver}; use another name")
        if name in self._registered and not replace and self._registered[name] is not entry:
            raise PluginError(f"{self.noun} {name!r} is already registered; pass replace=True, or use another name")
        try:
            self._registered[name] = self._check(name, entry)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{self.noun} {name!r}: {' '.join(str(error).split())}") from error

    def unregister(self, name: str) -> None:
        """Remove an entry that `register` added; does nothing if there is none."""
        self._registered.pop(name, None)

    def unknown(self, name: str) -> str:
        """Return the message for an unknown name, with the known names."""
        problems = "".join(f"; {line}" for line in self.problems())
        return f"unknown {self.noun} {name!r}; known: {', '.join(sorted(self.names()))}{problems}"

    def problems(self) -> tuple[str, ...]:
        """Return one line for each entry left out so far, with the reason."""
        return tuple(self._problems.values())

    def leave_out(self, name: str, reason: str) -> None:
        """Report once in the log why an entry is left out."""
        self.note(name, f"{self.noun} {name!r} is left out: {reason}")

    def note(self, key: str, line: str) -> None:
        """Log a line once for each key, and add it to the problems."""
        if key not in self._problems:
            self._problems[key] = line
            _LOG.warning("%s", line)

    def giver(self, name: str) -> str:
        """Return the provider of an entry, for messages: a package with its version, `difftrack`, or this session."""
        points = self._entries()
        return points[name].giver if name in points else "this session"

    def _entries(self) -> dict[str, "_Point"]:
        if self._points is None:
            self._points = {
                name: _Point(name, value, value.partition(".")[0].partition(":")[0], self.group)
                for name, value in self._built_in.items()
            }
            found = [_Point.read(point) for point in entry_points(group=self.group)]
            others = {point for point in found if point.package != "difftrack"}
            for point in sorted(others, key=lambda point: (point.giver, point.name)):
                self._take(point, self._points)
        return self._points

    def _take(self, point: "_Point", points: dict[str, "_Point"]) -> None:
        try:
            self._refuse_name(point.name)
        except PluginError as error:
            self.note(point.name, f"{error} (from {point.giver})")
            return
        first = points.setdefault(point.name, point)
        if first.value != point.value:
            line = f"{self.noun} {point.name!r} is provided by {first.giver} and by {point.giver}"
            self.note(f"{point.name} {point.giver}", f"{line}; the one from {first.giver} is used")

    def _refuse_name(self, name: str) -> None:
        if name in self._reserved or not _NAME.fullmatch(name):
            taken = f", but none of {', '.join(sorted(self._reserved))}" if self._reserved else ""
            raise PluginError(
                f"{self.noun} {name!r}: the name is invalid; use letters, digits, `_`, `.` and `-`{taken}"
            )


@dataclass(frozen=True, slots=True)
class _Point:
    """The used part of an entry point; installed entry points may come from a backport of importlib.metadata."""

    name: str
    value: str
    """`module:attribute`."""
    giver: str
    """Package and version that provide the entry, for messages."""
    group: str

    @classmethod
    def read(cls, point: Any) -> "_Point":  # noqa: ANN401
        """Convert an installed entry point."""
        giver = point.value.partition(":")[0] if point.dist is None else f"{point.dist.name} {point.dist.version}"
        return cls(point.name, point.value, giver, point.group)

    @property
    def package(self) -> str:
        return self.value.partition(":")[0].partition(".")[0].strip()

    def load(self) -> Any:  # noqa: ANN401
        return EntryPoint(self.name, self.value, self.group).load()
