"""Decide which files belong to this project; the rule applies to everything that it removes or overwrites.

1. A path is changed only inside the folder named for it by params or the command line, with links resolved. A link
   itself is never followed and never removed.
2. The path must prove that this project wrote it. Either it contains a marker, a file whose content says so
   (`ArtifactKind`), and nothing besides the files of such an artifact; or its bytes equal those recorded when it was
   written.
3. Only files that were listed before are removed.

Rooms describe their artifacts and call this module. Anything without proof is kept, and the message names it. Folders
named in params must not overlap each other, the project or the system (`check_paths`).
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
"""Maximum size of a marker in bytes; metrics and scores of many clips take a few megabytes."""
_IGNORED = (".gitignore", ".DS_Store", "Thumbs.db")
"""Files that other programs create in any folder."""

_SYSTEM = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Folders that must not contain results."""
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
"""Folders that may contain result folders but must not be one."""
_PROJECT = (
    *("difftrack", "stages", "tests", "docs", "benchmarks", "cli.py", "data/prompts", "data/backbones"),
    *("params.yaml", "dvc.yaml", "pyproject.toml", ".git", ".dvc", ".venv", ".ci"),
)
"""Parts of the project, relative to its root, that must not overlap results."""


class OwnershipError(ValueError):
    """A path that does not provably belong to this project would be removed or overwritten; the message names it."""


@dataclass(frozen=True, slots=True)
class ArtifactKind:
    """A kind of artifact stored as a folder, with the proof that a folder is one."""

    name: str
    """Name in messages: a clip, a report."""
    marker: str
    """Name of the file that identifies the folder."""
    proof: Callable[[Mapping[str, Any]], bool]
    """Returns whether the marker's JSON identifies this kind."""
    files: tuple[str, ...]
    """Patterns of the names of all files that the folder may contain, including the marker."""
    folders: Optional["ArtifactKind"] = None
    """Kind of its subfolders; None allows no subfolders."""

    def problem(self, folder: Path) -> str | None:
        """Return why a folder is not proven to be this kind of artifact; None if it is proven."""
        if folder.is_symlink() or not folder.is_dir():
            return f"{folder} is a link or not a folder"
        return self.stranger(folder) or self.unmarked(folder)

    def unmarked(self, folder: Path) -> str | None:
        """Return why the marker is not a proof; None if it is. Other files in the folder are not checked."""
        marker = folder / self.marker
        try:
            if not marker.is_file() or marker.stat().st_size > _LARGEST_MARKER:
                return f"{folder} contains no {self.marker} that identifies it as {self.name} of this project"
            content = json.loads(marker.read_bytes())
            if isinstance(content, dict) and self.proof(content):
                return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        return f"{marker} does not identify the folder as {self.name} of this project"

    def stranger(self, folder: Path) -> str | None:
        """Return a message about the first item that does not belong to such an artifact; None if there is none."""
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
    """Whether a value is a SHA-256 as stored in markers: 64 hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies inside a folder, with all links resolved except the path's last part."""
    real = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 - the last part must not be resolved
    return path.name not in ("", ".", "..") and Path(real).is_relative_to(os.path.realpath(folder))


def remove(path: Path, problem: str | None, *, folder: Path) -> None:
    """Remove an artifact's folder; a missing folder is not an error.

    Args:
        path: The folder.
        problem: Why the folder is not proven to belong to this project (see `ArtifactKind`); None if it is proven.
        folder: The folder that must contain `path`, with links resolved.

    Raises:
        OwnershipError: `path` is a link, lies elsewhere, or is not proven; nothing is removed.
    """
    if path.is_symlink() or not is_inside(path, folder):
        raise OwnershipError(f"{path} was not removed: it is a link or lies outside {folder}")
    if path.exists() and problem:
        raise OwnershipError(f"{path} was not removed: {problem}; move it elsewhere")
    shutil.rmtree(path, ignore_errors=not path.exists())


def remove_file(path: Path, *, content: object, folder: Path) -> bool:
    """Remove a file inside `folder` if its bytes equal those recorded when it was written.

    Args:
        path: The file; a missing file is not an error.
        content: The recorded SHA-256.
        folder: The folder that must contain the file.

    Returns:
        Whether the file is gone. A file that was changed, is a link or lies elsewhere is kept.
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
    """Check that an artifact may be written to a folder: existing files need a marker that proves ownership.

    Files of other names and subfolders are not checked.

    Raises:
        OwnershipError: the folder contains foreign files; the message names one.
    """
    if folder.exists() and not folder.is_dir():
        raise OwnershipError(f"{folder} is a file; {kind.name} needs a folder")
    if link := next((entry for name in kind.files if (entry := folder / name).is_symlink()), None):
        raise OwnershipError(f"{link} is a link and was not overwritten; write {kind.name} to another folder")
    existing = [entry for name in kind.files if (entry := folder / name).exists()]
    if existing and kind.unmarked(folder):
        raise OwnershipError(
            f"{folder} contains {existing[0].name} but is not {kind.name} of this project; nothing was overwritten: "
            "move it, or choose another folder"
        )


def check_paths(paths: Mapping[str, str], *, root: Path, inputs: Mapping[str, str] | None = None) -> None:
    """Check that result folders do not overlap each other, the project, its inputs, a home or a system folder.

    Args:
        paths: The section `paths`: outputs of the stages, by name. URLs such as s3://... are not checked.
        root: The project's root, to which paths are relative.
        inputs: Files and folders of the user that are read, by their name in params.

    Raises:
        OwnershipError: two paths overlap; the one-line message names both.
    """
    places = {f"paths.{name}": _place(root, value) for name, value in paths.items() if "://" not in value}
    given = {name: _place(root, value) for name, value in (inputs or {}).items() if "://" not in value}
    for name, place in places.items():
        for other, there, within in _forbidden(root):
            if place == there or place in there.parents or (within and place.is_relative_to(there)):
                raise OwnershipError(f"{name} is {place}, which overlaps {other} ({there}); choose a separate folder")
    known = list((places | given).items())
    for at, (name, place) in enumerate(known):
        for other, there in known[at + 1 :]:
            both_read = name in given and other in given
            if not both_read and (place.is_relative_to(there) or there.is_relative_to(place)):
                raise OwnershipError(f"{name} ({place}) and {other} ({there}) overlap; choose separate folders")


def check_folders(params: Mapping[str, Any], root: Path) -> None:
    """Check that `paths` do not overlap each other, the project, the user's inputs or the system.

    Raises:
        OwnershipError: two paths overlap; the one-line message names both.
    """
    paths = params.get("paths")
    folder = (params.get("synthesize") or {}).get("folder") if isinstance(params.get("synthesize"), dict) else None
    source = folder.get("path") if isinstance(folder, dict) else None
    inputs = {"synthesize.folder.path": source} if isinstance(source, str) else {}
    if isinstance(paths, dict):  # other errors in the section are reported where it is parsed
        texts = {name: path for name, path in paths.items() if isinstance(path, str)}
        check_paths(texts, root=root, inputs=inputs)


def _place(root: Path, value: str) -> Path:
    return Path(os.path.realpath(root / Path(value).expanduser()))


def _forbidden(root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield places that a result folder must not be or contain, and whether it must not lie inside them either."""
    yield "the project", _place(root, "."), False
    yield from ((f"{part} of the project", _place(root, part), True) for part in _PROJECT if (root / part).exists())
    yield "a home", Path(os.path.realpath(Path.home())), False
    yield from (("a system folder", Path(place), False) for place in _SHARED)
    yield from (("a system folder", Path(place), not _place(root, ".").is_relative_to(place)) for place in _SYSTEM)
