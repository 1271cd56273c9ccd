"""Where the golden numbers are: a small set that travels with the project, and the full set that may stand beside it.

The full set is found through DIFFTRACK_FIXTURES (default: ../shared/golden beside the project). Where it is absent its
tests are skipped with that reason; the bundled set is always tested. `tests/fixtures/cut.py` cuts it from a full one.

Shapes, counts and cases are read from a set's own files and from what its README.json says of them, so that any set of
the same schema runs, whatever its sizes.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BUNDLED = Path(__file__).parent / "fixtures"
FULL = Path(os.environ.get("DIFFTRACK_FIXTURES", Path(__file__).parents[2] / "shared" / "golden"))


def golden_files(name: str, *arrays: str) -> list[Any]:
    """Give the file of each set as a test parameter; the bundled one only if it holds all of `arrays`."""
    found: list[Any] = []
    if (BUNDLED / name).exists() and (not arrays or set(arrays) <= set(load(BUNDLED / name))):
        found.append(pytest.param(BUNDLED / name, id="bundled"))
    reason = f"no golden {name} in {FULL}: set DIFFTRACK_FIXTURES to test against the full set"
    absent = pytest.mark.skipif(not (FULL / name).exists(), reason=reason)
    found.append(pytest.param(FULL / name, id="full", marks=absent))
    return found


def load(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of one golden file."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@cache
def described(folder: Path) -> dict[str, Any]:
    """What a set's README.json says of its files: `note`, and for each array `shape`, `dtype`, `axes` and `pins`."""
    files: dict[str, Any] = json.loads((folder / "README.json").read_text())["files"]
    return files


def note(path: Path) -> str:
    """Read the README's note about a file."""
    return str(described(path.parent)[path.name]["note"])


def numbers(text: str, pattern: str) -> tuple[int, ...]:
    """Read the whole numbers that a pattern's groups match first; commas separate several in one group."""
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern!r} in {text!r}"
    return tuple(int(number) for group in found.groups() for number in group.split(","))


def about(path: Path, array: str) -> str:
    """Read the axes of an array, and what it pins."""
    own = described(path.parent)[path.name]["arrays"][array]
    return f"{own['axes']}; {own['pins']}"


def token_stride_px(path: Path) -> int:
    """Read the side of a token in pixels from the note of a matching file."""
    if found := re.search(r"stride (\d+)", note(path)):
        return int(found[1])
    height, _, rows, _ = numbers(note(path), r"(\d+)x(\d+) px \((\d+)x(\d+) tokens\)")
    return height // rows
