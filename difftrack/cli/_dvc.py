"""Filters hints in DVC's output, and detects a file that blocks DVC."""

import configparser
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["advice", "check_lock_files", "has_remote", "without_hints"]

_PUSH = "Use `dvc push`"
_ADD = ("To track the changes with git, run:", "To enable auto staging, run:")
"""First lines of hints; the command follows after a blank line, indented."""
_LOCK_FILES = ("rwlock", "exps/rwlock")
"""Files below .dvc/tmp in which DVC records readers and writers."""


def without_hints(lines: Iterable[str], *, remote: bool) -> Iterator[str]:
    """Remove DVC's repeated advice from its output: `git add`, auto staging and, without a remote, a push.

    Args:
        lines: Lines with their ends, as they come.
        remote: Whether there is a remote to push to.
    """
    blank, hinting = "", False
    for line in lines:
        text = line.strip()
        if text in _ADD:
            blank, hinting = "", True
        elif text.startswith(_PUSH) and not remote:
            blank = ""
        elif not text:
            blank = line if not hinting else ""
        elif hinting and line.startswith("\t"):
            continue
        else:
            hinting = False
            yield blank + line
            blank = ""
    if blank:
        yield blank


def has_remote(folder: Path) -> bool:
    """Return whether a project names a remote to which DVC can push."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        found.read([folder / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
    except (configparser.Error, ValueError):
        return True  # DVC may know better
    return any("remote" in section for section in found.sections())


def check_lock_files(folder: Path) -> None:
    """Refuse to start DVC if a killed run has left a file that blocks it.

    Raises:
        ValueError: there is such a file; the message names it and the way out.
    """
    for name in _LOCK_FILES:
        file = folder / ".dvc" / "tmp" / name
        if not file.is_file():
            continue
        content = file.read_bytes()
        try:
            json.loads(content)
        except ValueError:
            what = "no JSON" if content.strip() else "empty"
            raise ValueError(
                f"{file} is {what}: a run was killed while writing it, and DVC refuses every run until it is removed; "
                f"if no other run is active here, remove it: rm {file}"
            ) from None


def advice(folder: Path) -> str | None:
    """Return a hint on comparing later runs with this one; None if that is already possible, or without Git."""
    if not (folder / "dvc.lock").is_file() or shutil.which("git") is None:
        return None
    asked = ["git", "status", "--porcelain", "--", "dvc.lock"]
    found = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False)
    if found.returncode or not found.stdout.startswith("??"):
        return None
    return (
        "to compare later runs with this one (dvc metrics diff, dvc exp show): "
        "git add dvc.lock && git commit -m 'first run'"
    )
