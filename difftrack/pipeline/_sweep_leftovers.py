"""Finds data in the folder of sweeps that no sweep can use."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from difftrack.configuration import Configuration, configuration_from
from difftrack.documents import read_json
from difftrack.ownership import ArtifactKind, OwnershipError, remove
from difftrack.params import ParamsError
from difftrack.pipeline._sweep import MARKER, SweepPlanner
from difftrack.store import foreign_group, stored_bytes
from difftrack.sweeps import SweepError

__all__ = ["LeftoverCell", "leftover_cells"]

_FILES = (
    "cell.json",
    "manifest.json",
    "zarr.json",
    "scores.*",
    "best_layers.json",
    "summary.json",
    "metrics.*",
    "*.npz",
)
_CELL = ArtifactKind("a cell of a sweep", MARKER, lambda said: said["difftrack"] == "cell", _FILES)
_PARTIAL = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{32}\.partial")
_ABANDONED_S = 24 * 3600
"""Age at which an incomplete cell counts as abandoned: no stage pauses its writing for so long."""


@dataclass(frozen=True, slots=True)
class LeftoverCell:
    """A cell that can be removed."""

    root: str
    """Folder of the cell."""
    num_bytes: int
    why: str
    group: str = ""
    """Empty: the cell is removed as a whole."""

    def remove(self) -> None:
        """Remove it from disk, if it is still proven to be this project's.

        Raises:
            OwnershipError: there is no such proof.
        """
        place = Path(self.root)
        remove(place, _problem(place), folder=place.parent)


def leftover_cells(params_files: Sequence[Mapping[str, Any]], *, top: Path) -> Iterator[LeftoverCell]:
    """Find the cells that no sweep over these params files would reuse, and leftovers of killed sweeps.

    A sweep reuses a cell if the cell's key matches its own section of params with the current code, descriptors, tracks
    and clips; a sweep may request this section even if the params files differ now. If descriptors or a section of a
    params file are missing, the cell counts as needed. Tables of sweeps are never leftovers.

    Args:
        params_files: Whole params files.
        top: The folder from which their paths start.
    """
    readers = [_Reader(values, top) for values in params_files]
    for folder in sorted({reader.cells for reader in readers}):
        own = [reader for reader in readers if reader.cells == folder]
        for place in sorted(folder.glob("*/*/*")):
            if _problem(place) is None and (why := _why(place, own)):
                yield LeftoverCell(str(place), stored_bytes(str(place)), why)


def _why(place: Path, readers: Sequence["_Reader"]) -> str | None:
    """Return why no sweep reuses a cell; None if one does."""
    if _PARTIAL.fullmatch(place.name):
        since = max(entry.stat().st_mtime for entry in (place, *place.rglob("*")))
        return "a sweep was killed here" if time.time() - since > _ABANDONED_S else None
    if any(reader.takes_up(place) for reader in readers):
        return None
    return "no sweep reuses it: code, descriptors, tracks or clips have changed since"


def _problem(place: Path) -> str | None:
    """Return why a folder is not proven to be a cell; None if it is."""
    if place.is_symlink() or not place.is_dir():
        return f"{place} is a link or not a folder"
    unmarked = None if _PARTIAL.fullmatch(place.name) else _CELL.unmarked(place)
    for entry in sorted(place.iterdir()):
        if entry.is_symlink() or (entry.is_dir() and (other := foreign_group(str(place), entry.name))):
            return f"{entry if entry.is_symlink() else other} is not part of a cell of a sweep"
    files = [entry for entry in place.iterdir() if entry.is_file()]
    strangers = [entry for entry in files if not any(entry.match(pattern) for pattern in _FILES)]
    return f"{strangers[0]} is not part of a cell of a sweep" if strangers else unmarked


class _Reader:
    """Computes the keys that cells have under one params file."""

    def __init__(self, values: Mapping[str, Any], top: Path) -> None:
        self._values, self._top = values, top.resolve()
        self._base: Configuration | None = None
        folder = values["paths"].get("sweeps", "data/sweeps")
        try:
            self._base = configuration_from(values, file="params")
            folder = self._base.paths.sweeps
        except (ParamsError, OwnershipError):
            pass
        self.cells = (self._top / folder).resolve() / "cells"
        self._planner = None if self._base is None else SweepPlanner(self._top, self._base, self.cells)

    def takes_up(self, place: Path) -> bool:
        """Return whether a sweep would or may reuse the cell."""
        if self._base is None or self._planner is None:
            return True
        said = read_json(place / MARKER)
        stage, backbone = said["stage"], said["backbone"]
        if backbone not in self._base.backbones:
            return False
        sections = {stage: yaml.safe_load(said["section"])}
        if stage == "score":
            matches = Path(dict(said["deps"])["matches"]) / MARKER
            if not matches.is_file():
                return True  # the params of its matches are no longer known
            sections["match"] = yaml.safe_load(read_json(matches)["section"])
        values = {**self._values, **sections}
        try:
            self._planner.cell(
                "track" if stage == "track" else "score", backbone, configuration_from(values, file="cell"), values
            )
        except SweepError:
            return True
        except (ParamsError, OwnershipError):
            return False
        return place.name in self._planner.cells or place.name in self._planner.matches
