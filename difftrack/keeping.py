"""Keep unused artifacts until `difftrack gc` removes them or they exceed a budget.

Returning to earlier params restores kept artifacts byte for byte and computes nothing. They are stored outside the
pipeline's folders, so that neither later stages nor hashes of these folders include them:

    KEPT/KIND/NAME/KEY/kept.json    description, time of last use, size
    KEPT/KIND/NAME/KEY/content/     the artifact's folder, unchanged

KIND is the folder from which the artifact came (`clips`, `descriptors/BACKBONE/VIEW`); KEY states how it was made. An
entry is removed or restored only if it is proven: its kept.json describes it and lies in the stated place, there are no
other files beside it, and the content has the recorded number of files and bytes.

Several stages share one folder of kept artifacts, and only one process at a time changes it. On a disk, the process
holds the folder's lock during a move. Behind a URL there is no such lock; each group's own lock guards its entries, and
an entry that another process removes in the meantime counts as gone.
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
_PARTIAL = "content.part"
"""Name of the content while a move between disks is incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One kept artifact."""

    root: str
    """The folder of all kept artifacts."""
    kind: str
    name: str
    key: str
    since: float
    """Time of last use, in seconds since 1970."""
    num_bytes: int
    num_files: int

    @property
    def place(self) -> str:
        """Folder of the entry."""
        return f"{self.root}/{self.kind}/{self.name}/{self.key}"

    @property
    def content(self) -> str:
        """Folder of the artifact inside the entry."""
        return f"{self.place}/{_CONTENT}"

    def problem(self) -> str | None:
        """Return why the entry is not proven to be what was kept; None if it is proven."""
        system, place = _system(self.place)
        if others := _others(system, place):
            return f"{others[0]} is not part of a kept artifact"
        if _size(system, f"{place}/{_CONTENT}") != (self.num_files, self.num_bytes):
            return f"{self.content} does not have the {self.num_files} files and {self.num_bytes} bytes that were kept"
        return None

    def remove(self) -> None:
        """Remove the entry if it is still proven to belong to this project; a missing entry is not an error.

        Raises:
            OwnershipError: the entry is not proven.
        """
        with _locked(self.root):
            if _read(*_system(self.place), self.root) is not None:
                _remove(self.root, self.place, self.problem())


class Keeper:
    """Keeps artifacts of one kind, and restores them.

    The caller holds any other lock of the artifact's folder, such as a group's lock.

    Args:
        root: The folder of all kept artifacts: a directory or an fsspec URL.
        kind: The artifacts' folder in the pipeline.
        budget: Maximum number of bytes of all artifacts whose kind has the same first part (`descriptors`).
        say: Called with one line for artifacts kept, restored and removed.
    """

    def __init__(self, root: str | Path, kind: str, *, budget: int | float, say: Callable[[str], None] = print) -> None:
        self.root = str(root)
        self.kind = kind
        self.budget = budget
        self.say = say
        self._parked: dict[str, list[Kept]] = {}
        self._taken: list[Kept] = []

    def park(self, folder: str | Path, *, name: str, key: str, why: str) -> None:
        """Keep an artifact; the caller has checked that it belongs to this project.

        Args:
            folder: The artifact's folder.
            name: Name of the artifact.
            key: How it was made; a kept artifact with the same key is replaced.
            why: Reason for keeping it, for messages.

        Raises:
            OwnershipError: the entry's folder contains something that does not belong to this project.
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
        with _locked(self.root, self.say):
            _remove(self.root, kept.place, _not_replaceable(system, place, self.root))
            system.makedirs(place, exist_ok=True)
            system.pipe_file(f"{place}/{_MARK}", json.dumps({"difftrack": "kept", **asdict(kept)}).encode())
            _move(system, source, f"{place}/{_CONTENT}", by=f"{place}/{_PARTIAL}")
        self._parked.setdefault(why, []).append(kept)

    def keys(self, name: str) -> list[str]:
        """List the keys of kept artifacts with a name, most recently used first."""
        return [kept.key for kept in sorted(self._named(name), key=lambda kept: -kept.since)]

    def fitting(self, name: str, exact: str, reuse: str) -> str | None:
        """Return the key of a suitable kept artifact; None if there is none.

        Args:
            name: Name of the artifact.
            exact: Its key, from `difftrack.provenance.key_of`.
            reuse: `params` also accepts an artifact with equal params that was made differently.
        """
        keys, identity = self.keys(name), exact.partition("-")[0]
        alike = (key for key in keys if reuse == "params" and key.partition("-")[0] == identity)
        return exact if exact in keys else next(alike, None)

    def take(self, folder: str | Path, *, name: str, key: str) -> bool:
        """Restore an artifact to its folder if the folder does not exist; return whether it was restored."""
        system, target = _system(str(folder))
        with _locked(self.root, self.say):
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
        """Remove the kept copy of an artifact that exists in its folder again; an unproven entry is not removed."""
        for kept in self._named(name):
            if kept.key == key:
                with suppress(OwnershipError):
                    kept.remove()

    def settle(self) -> None:
        """Remove entries beyond the budget, least recently used first; report entries kept, restored and removed."""
        if self._taken:
            size = sum(kept.num_bytes for kept in self._taken)
            self.say(
                f"restored {len(self._taken)} of {self.kind} ({size / 1e6:.1f} MB) from {self.root}: they match "
                f"params.yaml, so no model ran for them"
            )
        self._taken = []
        for why, parked in self._parked.items():
            size = sum(kept.num_bytes for kept in parked)
            self.say(
                f"kept {len(parked)} of {self.kind} ({size / 1e6:.1f} MB) in {self.root}: {why}; returning to the "
                f"earlier params restores them, and `difftrack gc` removes them"
            )
        self._parked = {}
        with _locked(self.root, self.say):
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
                f"removed {kept.kind}/{kept.name} ({kept.num_bytes / 1e6:.1f} MB), the least recently used, from "
                f"{self.root}: keep_bytes allows {self.budget / 1e6:.1f} MB"
            )

    def _named(self, name: str) -> list[Kept]:
        return [kept for kept in _entries(self.root, f"{self.kind}/{name}") if kept.name == name]


def kept_entries(root: str | Path) -> list[Kept]:
    """List all kept artifacts, sorted by kind and name."""
    return sorted(_entries(str(root), ""), key=lambda kept: (kept.kind, kept.name, kept.since))


def _entries(root: str, below: str) -> list[Kept]:
    """List the entries with a valid description of their place."""
    system, top = _system(f"{root}/{below}" if below else root)
    found = (_read(system, place, root) for place in _places(system, top))
    return [kept for kept in found if kept is not None]


def _places(system: Any, folder: str) -> Iterator[str]:  # noqa: ANN401
    """Yield the folders of entries, recognised by their kept.json; folders inside an entry are not searched."""
    if system.isfile(f"{folder}/{_MARK}"):
        yield folder
        return
    try:
        entries = system.ls(folder, detail=True) if system.isdir(folder) else []
    except FileNotFoundError:  # another process removed the last artifact in it
        entries = []
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        if entry["type"] == "directory":
            yield from _places(system, str(entry["name"]).rstrip("/"))


def _read(system: Any, place: str, root: str) -> Kept | None:  # noqa: ANN401
    """Read the entry in a folder; None if there is none or it is incomplete."""
    kept = _marked(system, place, root)
    return kept if kept is not None and system.isdir(f"{place}/{_CONTENT}") else None


def _marked(system: Any, place: str, root: str) -> Kept | None:  # noqa: ANN401
    """Read the kept.json in a folder if it describes this folder; None otherwise."""
    try:
        values = json.loads(system.cat_file(f"{place}/{_MARK}"))
        if values.pop("difftrack") != "kept":
            return None
        numbers = {"since": float(values["since"]), **{name: int(values[name]) for name in ("num_bytes", "num_files")}}
        kept = Kept(**{**values, "root": root, **numbers})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    is_valid = _system(kept.place)[1] == place
    if _is_local(system):  # no link may lead out of the folder
        is_valid &= Path(place).resolve().is_relative_to(Path(root).resolve())
        is_valid &= not Path(place, _CONTENT).is_symlink()
    return kept if is_valid else None


def _not_replaceable(system: Any, place: str, root: str) -> str | None:  # noqa: ANN401
    """Return why an entry's folder must not be replaced; None if it is missing or contains (a part of) an entry."""
    if not system.exists(place):
        return None
    if _marked(system, place, root) is None:
        return f"{place} contains no {_MARK} that describes a kept artifact"
    others = _others(system, place)
    return f"{others[0]} is not part of a kept artifact" if others else None


def _others(system: Any, place: str) -> list[str]:  # noqa: ANN401
    """List the paths in an entry's folder that do not belong to an entry."""
    paths = [str(entry["name"]).rstrip("/") for entry in system.ls(place, detail=True)]
    return [path for path in paths if path.rpartition("/")[2] not in (_MARK, _CONTENT, _PARTIAL)]


def _size(system: Any, folder: str) -> tuple[int, int]:  # noqa: ANN401
    """Return the number of files and bytes in a folder."""
    sizes = [int(about["size"]) for about in system.find(folder, detail=True).values()]
    return len(sizes), sum(sizes)


def _remove(root: str, place: str, problem: str | None) -> None:
    """Remove an entry's folder under the rule of `difftrack.ownership`; a missing folder is not an error."""
    system, path = _system(place)
    if _is_local(system):
        remove(Path(path), problem, folder=Path(root))
    elif problem:
        raise OwnershipError(f"{place} was not removed: {problem}; move it elsewhere")
    else:
        with suppress(FileNotFoundError):
            system.rm(path, recursive=True)


def _move(system: Any, source: str, target: str, *, by: str | None = None) -> None:  # noqa: ANN401
    """Move a folder. On a disk, with a temporary name `by`, it appears under its name only when it is complete."""
    if by is None or not _is_local(system):
        system.mv(source, target, recursive=True)
        return
    system.mv(source, by, recursive=True)
    Path(by).rename(target)


def _make_way(system: Any, target: str) -> bool:  # noqa: ANN401
    """Whether a path does not exist, after removing an empty folder there; content would be moved into that folder."""
    if _is_local(system) and Path(target).is_dir() and not any(Path(target).iterdir()):
        Path(target).rmdir()
    return not system.exists(target)


def _locked(root: str, say: Say = lambda line: None) -> AbstractContextManager[object]:
    """Acquire the lock of a folder of kept artifacts; several calls in one process share it."""
    system, path = _system(root)
    return lock_of(Path(path)).acquire(wait_s=inf, say=say) if _is_local(system) else nullcontext()


def _is_local(system: Any) -> bool:  # noqa: ANN401
    return "file" in system.protocol


def _system(path: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it."""
    import fsspec  # slow to import

    system, plain = fsspec.url_to_fs(path)
    system.invalidate_cache()
    return system, plain.rstrip("/")
