"""Artifacts that are not asked for any more lie aside until `difftrack gc`, or until they exceed a budget.

Going back to earlier params takes them from there, byte for byte, and computes nothing. They lie outside the folders
of the pipeline, so that neither a later stage nor a hash of such a folder sees them:

    KEPT/KIND/NAME/KEY/kept.json    what this is, since when it lies here, its size
    KEPT/KIND/NAME/KEY/content/     the artifact's folder as it was

KIND is the folder that it came from (`clips`, `descriptors/BACKBONE/VIEW`), KEY says by what it was made. Nothing is
removed here but entries whose kept.json says so and lies where it says.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Keeper", "Kept", "kept_entries"]

_MARK = "kept.json"
_CONTENT = "content"


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

    @property
    def place(self) -> str:
        """Its folder."""
        return f"{self.root}/{self.kind}/{self.name}/{self.key}"

    @property
    def content(self) -> str:
        """The artifact's own folder."""
        return f"{self.place}/{_CONTENT}"

    def remove(self) -> None:
        """Remove it from disk."""
        system, place = _system(self.place)
        system.rm(place, recursive=True)


class Keeper:
    """Lays artifacts of one kind aside, and takes them back.

    Args:
        root: The folder of all that is kept: a directory or an fsspec URL.
        kind: The artifacts' folder, as the pipeline calls it.
        budget: Bytes that artifacts whose kinds begin alike (`descriptors`) may take together.
        say: Told, a line each, what is kept and what is removed.
    """

    def __init__(self, root: str | Path, kind: str, *, budget: int | float, say: Callable[[str], None] = print) -> None:
        self.root = str(root)
        self.kind = kind
        self.budget = budget
        self.say = say
        self._parked: dict[str, list[Kept]] = {}

    def park(self, folder: str | Path, *, name: str, key: str, why: str) -> None:
        """Lay an artifact aside.

        Args:
            folder: Where it lies.
            name: What it is called there.
            key: By what it was made; one that lies aside under the same key gives way.
            why: For people: why it leaves its folder.
        """
        system, source = _system(str(folder))
        kept = Kept(
            root=self.root, kind=self.kind, name=name, key=key, since=time.time(), num_bytes=int(system.du(source))
        )
        _, place = _system(kept.place)
        if system.exists(place):
            system.rm(place, recursive=True)
        system.makedirs(place, exist_ok=True)
        system.pipe_file(f"{place}/{_MARK}", json.dumps({"difftrack": "kept", **asdict(kept)}).encode())
        system.mv(source, f"{place}/{_CONTENT}", recursive=True)
        self._parked.setdefault(why, []).append(kept)

    def keys(self, name: str) -> list[str]:
        """Keys under which artifacts of a name lie aside, the one that was used last first."""
        found = [kept for kept in _entries(self.root, f"{self.kind}/{name}") if kept.name == name]
        return [kept.key for kept in sorted(found, key=lambda kept: -kept.since)]

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
        """Put an artifact back where it lay; whether there was one."""
        if key not in self.keys(name):
            return False
        system, target = _system(str(folder))
        _, place = _system(f"{self.root}/{self.kind}/{name}/{key}")
        system.makedirs(target.rpartition("/")[0], exist_ok=True)
        system.mv(f"{place}/{_CONTENT}", target, recursive=True)
        system.rm(place, recursive=True)
        return True

    def drop(self, *, name: str, key: str) -> None:
        """Remove an artifact that lies in its folder again."""
        for kept in _entries(self.root, f"{self.kind}/{name}"):
            if (kept.name, kept.key) == (name, key):
                kept.remove()

    def settle(self) -> None:
        """Remove what exceeds the budget, least recently used first, and say what was kept and what was removed."""
        for why, parked in self._parked.items():
            size = sum(kept.num_bytes for kept in parked)
            self.say(
                f"kept {len(parked)} of {self.kind} ({size / 1e6:.1f} MB) in {self.root}: {why}; going back takes "
                f"them from there, and `difftrack gc` removes them"
            )
        self._parked = {}
        entries = sorted(_entries(self.root, self.kind.partition("/")[0]), key=lambda kept: kept.since)
        excess = sum(kept.num_bytes for kept in entries) - self.budget
        for kept in entries:
            if excess <= 0:
                break
            kept.remove()
            excess -= kept.num_bytes
            self.say(
                f"removed {kept.kind}/{kept.name} ({kept.num_bytes / 1e6:.1f} MB) from {self.root}: keep_bytes allows "
                f"{self.budget / 1e6:.1f} MB, and it was used least recently"
            )


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
    elif system.isdir(folder):
        for entry in sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"])):
            if entry["type"] == "directory":
                yield from _places(system, str(entry["name"]).rstrip("/"))


def _read(system: Any, place: str, root: str) -> Kept | None:  # noqa: ANN401
    try:
        values = json.loads(system.cat_file(f"{place}/{_MARK}"))
        if values.pop("difftrack") != "kept":
            return None
        kept = Kept(**{**values, "root": root, "since": float(values["since"]), "num_bytes": int(values["num_bytes"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    lies_there = _system(kept.place)[1] == place and system.isdir(f"{place}/{_CONTENT}")
    if "file" in system.protocol:  # no link leads out of the folder
        lies_there &= Path(place).resolve().is_relative_to(Path(root).resolve())
    return kept if lies_there else None


def _system(path: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path on it."""
    import fsspec  # type: ignore[import-untyped] # takes a while, and is not needed to import this module

    system, plain = fsspec.url_to_fs(path)
    system.invalidate_cache()
    return system, plain.rstrip("/")
