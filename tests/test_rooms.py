"""The names that rooms offer are in a stub, and load on first use."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = sorted((ROOT / "difftrack").rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=[stub.parent.name for stub in STUBS])
def test_every_name_of_a_stub_is_one_that_the_room_gives(stub: Path) -> None:
    room = importlib.import_module(".".join(stub.parent.relative_to(ROOT).parts))
    imports = [line for line in ast.parse(stub.read_text()).body if isinstance(line, ast.ImportFrom)]
    named = {alias.name for line in imports for alias in line.names}
    assert set(room.__all__) == named
    assert all(getattr(room, name) is not None for name in named)
