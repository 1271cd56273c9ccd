"""Default names of files that a notebook writes."""

import filecmp
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_unnamed"]


def write_unnamed(file: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a default name, without overwriting existing files.

    If the name is taken by other content, a number follows it: `dog-overlay-2.mp4`. A repeated cell gives the same
    bytes, and so the same file.

    Args:
        file: Preferred name; its folder must exist.
        write: Writes a file of a given name.

    Returns:
        The file.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".difftrack-") as folder:
        fresh = Path(folder) / file.name
        write(fresh)
        chosen, number = file, 1
        while chosen.exists():
            if chosen.is_file() and filecmp.cmp(fresh, chosen, shallow=False):
                return chosen
            number += 1
            chosen = file.with_stem(f"{file.stem}-{number}")
        return fresh.rename(chosen)
