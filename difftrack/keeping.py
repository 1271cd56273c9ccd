"""Artifacts that are not asked for any more lie aside until `difftrack gc`, or until they exceed a budget.

Going back to earlier params takes them from there, byte for byte, and computes nothing. They lie outside the folders
of the pipeline, so that neither a later stage nor a hash of such a folder sees them:

    KEPT/KIND/NAME/KEY/kept.json    what this is, since when it lies here, its size
    KEPT/KIND/NAME/KEY/content/     the artifact's folder as it was

KIND is the folder that it came from (`clips`, `descriptors/BACKBONE/VIEW`), KEY says by what it was made. Nothing is
removed or taken from here but entries that prove themselves: kept.json says so and lies where it says, nothing lies
beside it, and the content has as many files and bytes as were laid aside.

Several stages keep things in one folder. One process at a time changes it: on a disk it holds the folder's lock, for
the moment of a move. Behind a URL there is no lock; there each group's own lock guards its entries, and an entry that
another process removes meanwhile counts as gone.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from difftrack.locks import Say, lock_of
from difftrack.ownership import OwnershipError, remove

__all__ = ["Keeper", "Kept", "kept_entries"]

_MARK = "kept.json"
_CONTENT = "content"
_ON_ITS_WAY = "content.part"
"""Content that a move between disks has not brought whole yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One artifact that lies aside."""

    root: str
    """The folder of all that is kept."""
    kind: str
    name: str
    key: str
    since: float
    """When it was last in use: seconds since 1970."""
    num_bytes: int
    num_files: int

    @property
    def place(self) -> str:
        """Its folder."""
        return f"{self.root}/{self.kind}/{self.name}/{self.key}"

    @property
    def content(self) -> str:
        """The artifact's own folder."""
        return f"{self.place}/{_CONTENT}"

    def problem(self) -> str | None:
        """Say why it is not proven to be what was laid aside; None where it is."""
        system, place = _system(self.place)
        if others := _others(system, place):
            return f"{others[0]} is no part of what was laid aside"
        if _size(system, f"{place}/{_CONTENT}") != (self.num_files, self.num_bytes):
            return f"{self.content} is not the {self.num_files} files of {self.num_bytes} bytes that were laid aside"
        return None

    def remove(self) -> None:
        """Remove it from disk, if it is still proven to be this project's; one that is gone is no error.

        Raises:
            OwnershipError: it is not.
        """
        with _held(self.root):
            if _read(*_system(self.place), self.root) is not None:
                _remove(self.root, self.place, self.problem())


class Keeper:
    """Lays artifacts of one kind aside, and takes them back.

    The caller holds what else guards an artifact's own folder, such as a group's lock.

    Args:
        root: The folder of all that is kept: a directory or an fsspec URL.
        kind: The artifacts' folder, as the pipeline calls it.
        budget: Bytes that artifacts whose kinds begin alike (`descriptors`) may take together.
        say: Told, a line each, what is kept, what is taken back and what is removed.
    """

    def __init__(self, root: str | Path, kind: str, *, budget: int | float, say: Callable[[str], None] = print) -> None:
        self.root = str(root)
        self.kind = kind
        self.budget = budget
        self.say = say
        self._parked: dict[str, list[Kept]] = {}
        self._taken: list[Kept] = []

    def park(self, folder: str | Path, *, name: str, key: str, why: str) -> None:
        """Lay an artifact aside, which the caller knows to be this project's.

        Args:
            folder: Where it lies.
            name: What it is called there.
            key: By what it was made; one that lies aside under the same key gives way.
            why: For people: why it leaves its folder.

        Raises:
            OwnershipError: what lies in the place where it would be kept is not this project's.
        """
        system, source = _system(str(folder))
        num_files, num_bytes = _size(system, source)
        kept = Kept(
            root=self.root,
            kind=self.kind,
            name=name,
            key=key,
            since=time.time(),
            num_bytes=num_bytes,
            num_files=num_files,
        )
        _, place = _system(kept.place)
        with _held(self.root, self.say):
            _remove(self.root, kept.place, _not_replaceable(system, place, self.root))
            system.makedirs(place, exist_ok=True)
            system.pipe_file(f"{place}/{_MARK}", json.dumps({"difftrack": "kept", **asdict(kept)}).encode())
            _move(system, source, f"{place}/{_CONTENT}", by=f"{place}/{_ON_ITS_WAY}")
        self._parked.setdefault(why, []).append(kept)

    def keys(self, name: str) -> list[str]:
        """Keys under which artifacts of a name lie aside, the one that was used last first."""
        return [kept.key for kept in sorted(self._named(name), key=lambda kept: -kept.since)]

    def fitting(self, name: str, exact: str, reuse: str) -> str | None:
        """The key under which a wanted artifact lies aside; None where none does.

        Args:
            name: What it is called.
            exact: Its key, from `difftrack.provenance.key_of`.
            reuse: `params`: where nothing lies under that key, one that only something else made will do.
        """
        keys, identity = self.keys(name), exact.partition("-")[0]
        alike = (key for key in keys if reuse == "params" and key.partition("-")[0] == identity)
        return exact if exact in keys else next(alike, None)

    def take(self, folder: str | Path, *, name: str, key: str) -> bool:
        """Put an artifact back where it lay, if nothing lies there; whether that was done."""
        system, target = _system(str(folder))
        with _held(self.root, self.say):
            found = next((kept for kept in self._named(name) if kept.key == key), None)
            if found is None or found.problem() is not None or not _make_way(system, target):
                return False
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            _, place = _system(found.place)
            _move(system, f"{place}/{_CONTENT}", target)
            _remove(self.root, found.place, _not_replaceable(system, place, self.root))
        self._taken.append(found)
        return True

    def drop(self, *, name: str, key: str) -> None:
        """Remove an artifact that lies in its folder again; one that is not proven to be what was kept stays."""
        for kept in self._named(name):
            if kept.key == key:
                with suppress(OwnershipError):
                    kept.remove()

    def settle(self) -> None:
        """Remove what exceeds the budget, least recently used first; say what was kept, taken back and removed."""
        if self._taken:
            size = sum(kept.num_bytes for kept in self._taken)
            self.say(
                f"took back {len(self._taken)} of {self.kind} ({size / 1e6:.1f} MB) from {self.root}: made as "
                f"params.yaml asks, so that no model ran for them"
            )
        self._taken = []
        for why, parked in self._parked.items():
            size = sum(kept.num_bytes for kept in parked)
            self.say(
                f"kept {len(parked)} of {self.kind} ({size / 1e6:.1f} MB) in {self.root}: {why}; going back takes "
                f"them from there, and `difftrack gc` removes them"
            )
        self._parked = {}
        with _held(self.root, self.say):
            self._keep_to_budget()

    def _keep_to_budget(self) -> None:
        entries = sorted(_entries(self.root, self.kind.partition("/")[0]), key=lambda kept: kept.since)
        excess = sum(kept.num_bytes for kept in entries) - self.budget
        for kept in entries:
            if excess <= 0:
                break
            try:
                kept.remove()
            except OwnershipError as error:
                self.say(str(error))
                continue
            excess -= kept.num_bytes
            self.say(
                f"removed {kept.kind}/{kept.name} ({kept.num_bytes / 1e6:.1f} MB) from {self.root}: keep_bytes allows "
                f"{self.budget / 1e6:.1f} MB, and it was used least recently"
            )

    def _named(self, name: str) -> list[Kept]:
        return [kept for kept in _entries(self.root, f"{self.kind}/{name}") if kept.name == name]


def kept_entries(root: str | Path) -> list[Kept]:
    """All that lies aside, by kind and name."""
    return sorted(_entries(str(root), ""), key=lambda kept: (kept.kind, kept.name, kept.since))


def _entries(root: str, below: str) -> list[Kept]:
    """Entries that say what they are, and lie where they say."""
    system, top = _system(f"{root}/{below}" if below else root)
    found = (_read(system, place, root) for place in _places(system, top))
    return [kept for kept in found if kept is not None]


def _places(system: Any, folder: str) -> Iterator[str]:  # noqa: ANN401
    """Folders that hold a mark; what lies below one is an artifact's own."""
    if system.isfile(f"{folder}/{_MARK}"):
        yield folder
        return
    try:
        entries = system.ls(folder, detail=True) if system.isdir(folder) else []
    except FileNotFoundError:  # another process has taken the last artifact from it
        entries = []
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        if entry["type"] == "directory":
            yield from _places(system, str(entry["name"]).rstrip("/"))


def _read(system: Any, place: str, root: str) -> Kept | None:  # noqa: ANN401
    """The entry that lies in a place; None where there is none, or not all of it."""
    kept = _marked(system, place, root)
    return kept if kept is not None and system.isdir(f"{place}/{_CONTENT}") else None


def _marked(system: Any, place: str, root: str) -> Kept | None:  # noqa: ANN401
    """What the mark in a place says, if it is of this place; None otherwise."""
    try:
        values = json.loads(system.cat_file(f"{place}/{_MARK}"))
        if values.pop("difftrack") != "kept":
            return None
        numbers = {"since": float(values["since"]), **{name: int(values[name]) for name in ("num_bytes", "num_files")}}
        kept = Kept(**{**values, "root": root, **numbers})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    lies_there = _system(kept.place)[1] == place
    if _is_local(system):  # no link leads out of the folder
        lies_there &= Path(place).resolve().is_relative_to(Path(root).resolve())
        lies_there &= not Path(place, _CONTENT).is_symlink()
    return kept if lies_there else None


def _not_replaceable(system: Any, place: str, root: str) -> str | None:  # noqa: ANN401
    """Say why what lies in an entry's place may not give way; None where nothing, or an entry or part of one, does."""
    if not system.exists(place):
        return None
    if _marked(system, place, root) is None:
        return f"{place} holds no {_MARK} that says what is kept there"
    others = _others(system, place)
    return f"{others[0]} is no part of what was laid aside" if others else None


def _others(system: Any, place: str) -> list[str]:  # noqa: ANN401
    """Paths in an entry's folder that are no part of an entry."""
    paths = [str(entry["name"]).rstrip("/") for entry in system.ls(place, detail=True)]
    return [path for path in paths if path.rpartition("/")[2] not in (_MARK, _CONTENT, _ON_ITS_WAY)]


def _size(system: Any, folder: str) -> tuple[int, int]:  # noqa: ANN401
    """Numbers of files and bytes below a folder."""
    sizes = [int(about["size"]) for about in system.find(folder, detail=True).values()]
    return len(sizes), sum(sizes)


def _remove(root: str, place: str, problem: str | None) -> None:
    """Remove an entry's folder by the rule for all that this project removes; a missing one is no error."""
    system, path = _system(place)
    if _is_local(system):
        remove(Path(path), problem, folder=Path(root))
    elif problem:
        raise OwnershipError(f"{place} is not removed: {problem}; move it elsewhere")
    else:
        with suppress(FileNotFoundError):
            system.rm(path, recursive=True)


def _move(system: Any, source: str, target: str, *, by: str | None = None) -> None:  # noqa: ANN401
    """Move a folder; on a disk it appears under its name when it is whole, `by` way of another name beside it."""
    if by is None or not _is_local(system):
        system.mv(source, target, recursive=True)
        return
    system.mv(source, by, recursive=True)
    Path(by).rename(target)


def _make_way(system: Any, target: str) -> bool:  # noqa: ANN401
    """Whether nothing lies in a place; an empty folder goes, since a content would be moved into it."""
    if _is_local(system) and Path(target).is_dir() and not any(Path(target).iterdir()):
        Path(target).rmdir()
    return not system.exists(target)


def _held(root: str, say: Say = lambda line: None) -> AbstractContextManager[object]:
    """The lock of a folder of what is kept; several calls in one process share it."""
    system, path = _system(root)
    return lock_of(Path(path)).acquire(wait_s=inf, say=say) if _is_local(system) else nullcontext()


def _is_local(system: Any) -> bool:  # noqa: ANN401
    return "file" in system.protocol


def _system(path: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path on it."""
    import fsspec  # takes a while, and is not needed to import this module

    system, plain = fsspec.url_to_fs(path)
    system.invalidate_cache()
    return system, plain.rstrip("/")
