"""What is said about DVC: which of its hints lead somewhere here, and a file that stops it."""

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
"""Files, below .dvc/tmp, in which DVC notes who reads and writes what."""


def without_hints(lines: Iterable[str], *, remote: bool) -> Iterator[str]:
    """Leave out of DVC's output what it advises after each run: `git add`, auto staging and, without remote, a push.

    Args:
        lines: With their ends, as they come.
        remote: Whether there is somewhere to push to.
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
    """Whether a project names a remote to which DVC can push."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        found.read([folder / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
    except (configparser.Error, ValueError):
        return True  # DVC may know better
    return any("remote" in section for section in found.sections())


def check_lock_files(folder: Path) -> None:
    """Refuse to start DVC where a run that was killed has left a file that stops it.

    Raises:
        ValueError: names the file and the way out.
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
                f"{file} is {what}: a run was killed while it wrote it, and DVC refuses every run until it is gone; "
                f"where no other run is under way here, remove it: rm {file}"
            ) from None


def advice(folder: Path) -> str | None:
    """How later runs can be compared with this one; None where they can be, or there is no Git."""
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
