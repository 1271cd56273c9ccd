"""Registries of what others may add: built-in entries, those of installed packages, and those of a notebook.

An installed package adds an entry by an entry point of the registry's group. Built-in entries are entry points as well,
named in code in place of a package's metadata, so that a checkout needs no installation.
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
    """An entry is unknown, is no such thing, or cannot be loaded; the message is one line and says what there is."""


def one_line(error: BaseException) -> str:
    """Say in one line what was raised."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Registry(Generic[T]):
    """Named entries of one kind, each loaded when it is first asked for.

    Args:
        group: The entry points' group, such as `difftrack.trackers`.
        noun: What messages call an entry, such as `tracker`.
        built_in: Name -> `module:attribute`.
        check: Returns an entry where it is one, and raises `ValueError` or `TypeError` that says what is wrong.
        reserved: Names that mean something else and cannot be given.
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
        """All names: the built-in ones first, then those of installed packages, then registered ones.

        No package is imported for this.
        """
        return (*self._entries(), *(name for name in self._registered if name not in self._entries()))

    def get(self, name: str) -> T:
        """The entry of a name.

        Raises:
            PluginError: there is none of that name, or it cannot be loaded.
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
                line = f"{self.noun} {name!r} of {points[name].giver} cannot be loaded ({one_line(error)})"
                self._failed[name] = line
                self.note(name, line)
                raise PluginError(line) from error
        return self._loaded[name]

    def items(self) -> dict[str, T]:
        """All entries that can be loaded; one that cannot is named in the log, once, and left out."""
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
            name: Its name.
            entry: The thing itself.
            replace: Whether an entry that was registered before makes room, as when a notebook's cell runs again.
                Built-in entries and those of installed packages never do.

        Raises:
            PluginError: the name is taken or cannot be one, or the entry is no such thing.
        """
        self._refuse_name(name)
        points = self._entries()
        if name in points:
            raise PluginError(f"{self.noun} {name!r} is there already, from {points[name].giver}; take another name")
        if name in self._registered and not replace and self._registered[name] is not entry:
            raise PluginError(f"{self.noun} {name!r} was registered before; give replace=True, or take another name")
        try:
            self._registered[name] = self._check(name, entry)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{self.noun} {name!r}: {' '.join(str(error).split())}") from error

    def unregister(self, name: str) -> None:
        """Take back what `register` added; nothing happens where it added nothing."""
        self._registered.pop(name, None)

    def unknown(self, name: str) -> str:
        """Say that there is no entry of a name, and which there are."""
        problems = "".join(f"; {line}" for line in self.problems())
        return f"unknown {self.noun} {name!r}; known: {', '.join(sorted(self.names()))}{problems}"

    def problems(self) -> tuple[str, ...]:
        """One line for each entry that was left out so far, and why."""
        return tuple(self._problems.values())

    def leave_out(self, name: str, reason: str) -> None:
        """Say in the log, once, why an entry does not count."""
        self.note(name, f"{self.noun} {name!r} is left out: {reason}")

    def note(self, key: str, line: str) -> None:
        """Say a line in the log, once for each key, and keep it among the problems."""
        if key not in self._problems:
            self._problems[key] = line
            _LOG.warning("%s", line)

    def giver(self, name: str) -> str:
        """What gives an entry, for messages: a package with its version, `difftrack`, or this session."""
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
            line = f"{self.noun} {point.name!r} is given by {first.giver} and by {point.giver}"
            self.note(f"{point.name} {point.giver}", f"{line}; that of {first.giver} is used")

    def _refuse_name(self, name: str) -> None:
        if name in self._reserved or not _NAME.fullmatch(name):
            taken = f", and none of {', '.join(sorted(self._reserved))}" if self._reserved else ""
            raise PluginError(
                f"{self.noun} {name!r}: the name cannot be used; wanted: letters, digits, `_`, `.` and `-`{taken}"
            )


@dataclass(frozen=True, slots=True)
class _Point:
    """What counts of an entry point; the installed ones may be those of a backport of importlib.metadata."""

    name: str
    value: str
    """`module:attribute`."""
    giver: str
    """Its package and version, for messages."""
    group: str

    @classmethod
    def read(cls, point: Any) -> "_Point":  # noqa: ANN401
        """Take over an installed one."""
        giver = point.value.partition(":")[0] if point.dist is None else f"{point.dist.name} {point.dist.version}"
        return cls(point.name, point.value, giver, point.group)

    @property
    def package(self) -> str:
        return self.value.partition(":")[0].partition(".")[0].strip()

    def load(self) -> Any:  # noqa: ANN401
        return EntryPoint(self.name, self.value, self.group).load()
