"""Where the golden numbers are: a small set that travels with the project, and the full set that may stand beside it.

The full set is found through DIFFTRACK_FIXTURES (default: ../shared/golden beside the project). Where it is absent its
tests are skipped with that reason; the bundled set is always tested.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BUNDLED = Path(__file__).parent / "fixtures"
FULL = Path(os.environ.get("DIFFTRACK_FIXTURES", Path(__file__).parents[2] / "shared" / "golden"))


def golden_files(name: str, *arrays: str) -> list[Any]:
    """Give the file of each set as a test parameter; the bundled one only if it holds all of `arrays`."""
    found: list[Any] = []
    if (BUNDLED / name).exists() and set(arrays) <= set(load(BUNDLED / name)):
        found.append(pytest.param(BUNDLED / name, id="bundled"))
    reason = f"no golden {name} in {FULL}: set DIFFTRACK_FIXTURES to test against the full set"
    absent = pytest.mark.skipif(not (FULL / name).exists(), reason=reason)
    found.append(pytest.param(FULL / name, id="full", marks=absent))
    return found


def load(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of one golden file."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}
