"""What on the disk is this project's own: the one rule for all that it removes or writes over.

1. A path is touched only inside the folder that params or the command line name for it, links resolved; a link itself
   is never followed and never removed.
2. It must prove that this project wrote it: by a marker, a file whose content says so (`ArtifactKind`), and by holding
   nothing besides what such an artifact holds; or by having the very bytes that the project recorded when it wrote it.
3. What is removed was listed before, and nothing else goes.

Rooms say what their artifacts look like and call this room; anything that cannot be proven stays, and the message names
it. Folders that params name must be apart from each other, from the project and from the system (`check_paths`).
"""

import fnmatch
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

__all__ = [
    "ArtifactKind",
    "OwnershipError",
    "check_folders",
    "check_paths",
    "claim",
    "is_fingerprint",
    "is_inside",
    "remove",
    "remove_file",
]

_LARGEST_MARKER = 2**28
"""Bytes; metrics and scores of many clips are some megabytes."""
_IGNORED = (".gitignore", ".DS_Store", "Thumbs.db")
"""Files that other programs leave in every folder."""

_SYSTEM = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Folders in which nothing of ours may lie."""
_SHARED = (
    "/",
    "/dev",
    "/dev/shm",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/tmp",
)
"""Folders that may hold our folders and may not be one."""
_PROJECT = (
    *("difftrack", "stages", "tests", "docs", "benchmarks", "cli.py", "data/prompts", "data/backbones"),
    *("params.yaml", "dvc.yaml", "pyproject.toml", ".git", ".dvc", ".venv", ".ci"),
)
"""Parts of the project, relative to its root."""


class OwnershipError(ValueError):
    """Something would be removed or written over that is not proven to be this project's; the message names it."""


@dataclass(frozen=True, slots=True)
class ArtifactKind:
    """A kind of artifact that is a folder, and how a folder proves to be one."""

    name: str
    """Word for messages: a clip, a report."""
    marker: str
    """File that says what the folder is."""
    proof: Callable[[Mapping[str, Any]], bool]
    """Whether the marker's JSON says so."""
    files: tuple[str, ...]
    """Patterns of the names of all files that it may hold, the marker among them."""
    folders: Optional["ArtifactKind"] = None
    """What its folders must be; without, it has none."""

    def problem(self, folder: Path) -> str | None:
        """Say why a folder is not proven to be one; None where it is."""
        if folder.is_symlink() or not folder.is_dir():
            return f"{folder} is no folder of its own"
        return self.stranger(folder) or self.unmarked(folder)

    def unmarked(self, folder: Path) -> str | None:
        """Say why the marker proves nothing; None where it does. What else lies there is not looked at."""
        marker = folder / self.marker
        try:
            if not marker.is_file() or marker.stat().st_size > _LARGEST_MARKER:
                return f"{folder} holds no {self.marker} that says that it is {self.name} of this project"
            said = json.loads(marker.read_bytes())
            if isinstance(said, dict) and self.proof(said):
                return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        return f"{marker} does not say that this is {self.name} of this project"

    def stranger(self, folder: Path) -> str | None:
        """Name the first thing in a folder that such an artifact does not hold; None where there is none."""
        for entry in sorted(folder.iterdir()):
            if entry.is_symlink():
                known = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in self.files) and entry.is_file()
            elif entry.is_dir():
                known = self.folders is not None and self.folders.problem(entry) is None
            else:
                known = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in (*self.files, *_IGNORED))
            if not known:
                return f"{entry} is not part of {self.name}"
        return None


def is_fingerprint(value: object) -> bool:
    """Whether a value is a SHA-256 as markers hold it: 64 hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder when all links but the path's own last part are resolved."""
    real = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 - the last part stays as it is
    return path.name not in ("", ".", "..") and Path(real).is_relative_to(os.path.realpath(folder))


def remove(path: Path, problem: str | None, *, folder: Path) -> None:
    """Remove an artifact that is a folder; a missing one is no error.

    Args:
        path: The folder.
        problem: Why the folder is not taken for this project's (see `ArtifactKind`); None for a proven one.
        folder: Where it must lie, links resolved.

    Raises:
        OwnershipError: it is a link, lies elsewhere, or is not proven; nothing is removed then.
    """
    if path.is_symlink() or not is_inside(path, folder):
        raise OwnershipError(f"{path} is not removed: it is a link or lies outside {folder}")
    if path.exists() and problem:
        raise OwnershipError(f"{path} is not removed: {problem}; move it elsewhere")
    shutil.rmtree(path, ignore_errors=not path.exists())


def remove_file(path: Path, *, content: object, folder: Path) -> bool:
    """Remove a file inside `folder` that still has the bytes that were recorded when it was written.

    Args:
        path: The file; a missing one is no error.
        content: SHA-256 that was recorded.
        folder: Where it must lie.

    Returns:
        Whether it is gone; a file that was changed, is a link or lies elsewhere stays.
    """
    if path.is_symlink() or not is_inside(path, folder) or not is_fingerprint(content):
        return False
    if not path.exists():
        return True
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != content:
        return False
    path.unlink()
    return True


def claim(folder: Path, kind: ArtifactKind) -> None:
    """Refuse to write into a folder that holds files of these names and is not marked as the project's.

    Files of other names are left alone, and so is what folders inside hold.

    Raises:
        OwnershipError: names what lies there.
    """
    if folder.exists() and not folder.is_dir():
        raise OwnershipError(f"{folder} is a file; {kind.name} needs a folder")
    if link := next((entry for name in kind.files if (entry := folder / name).is_symlink()), None):
        raise OwnershipError(f"{link} is a link and is not written through; put {kind.name} into a folder of its own")
    held = [entry for name in kind.files if (entry := folder / name).exists()]
    if held and kind.unmarked(folder):
        raise OwnershipError(
            f"{folder} holds {held[0].name} and is not {kind.name} of this project; nothing there is written over: "
            "move it, or name another folder"
        )


def check_paths(paths: Mapping[str, str], *, root: Path, inputs: Mapping[str, str] | None = None) -> None:
    """Refuse folders of results that overlap each other, the project, its inputs, a home or a system folder.

    Args:
        paths: The section `paths`: what the stages write, by name. Addresses such as s3://... are let pass.
        root: The project, to which paths are relative.
        inputs: Files and folders of the user that are read, by their name in params.

    Raises:
        OwnershipError: names both, on one line.
    """
    places = {f"paths.{name}": _place(root, value) for name, value in paths.items() if "://" not in value}
    given = {name: _place(root, value) for name, value in (inputs or {}).items() if "://" not in value}
    for name, place in places.items():
        for other, there, within in _forbidden(root):
            if place == there or place in there.parents or (within and place.is_relative_to(there)):
                raise OwnershipError(
                    f"{name} is {place}, which overlaps {other} ({there}); give it a folder of its own"
                )
    known = list((places | given).items())
    for at, (name, place) in enumerate(known):
        for other, there in known[at + 1 :]:
            both_read = name in given and other in given
            if not both_read and (place.is_relative_to(there) or there.is_relative_to(place)):
                raise OwnershipError(f"{name} ({place}) and {other} ({there}) overlap; give each a folder of its own")


def check_folders(params: Mapping[str, Any], root: Path) -> None:
    """Refuse `paths` that overlap each other, the project, the user's inputs or the system.

    Raises:
        OwnershipError: names both, on one line.
    """
    paths = params.get("paths")
    folder = (params.get("synthesize") or {}).get("folder") if isinstance(params.get("synthesize"), dict) else None
    source = folder.get("path") if isinstance(folder, dict) else None
    inputs = {"synthesize.folder.path": source} if isinstance(source, str) else {}
    if isinstance(paths, dict):  # whatever else is wrong with the section is said where it is read
        texts = {name: path for name, path in paths.items() if isinstance(path, str)}
        check_paths(texts, root=root, inputs=inputs)


def _place(root: Path, value: str) -> Path:
    return Path(os.path.realpath(root / Path(value).expanduser()))


def _forbidden(root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield what no folder of results may be or hold, and whether none may lie inside it either."""
    yield "the project", _place(root, "."), False
    yield from ((f"{part} of the project", _place(root, part), True) for part in _PROJECT if (root / part).exists())
    yield "a home", Path(os.path.realpath(Path.home())), False
    yield from (("a system folder", Path(place), False) for place in _SHARED)
    yield from (("a system folder", Path(place), not _place(root, ".").is_relative_to(place)) for place in _SYSTEM)
