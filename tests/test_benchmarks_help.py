"""Every benchmark explains its options with `--help`."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest


def test_the_store_benchmark_has_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setattr("sys.argv", ["store", "--help"])
    store = importlib.import_module("benchmarks.store")
    with pytest.raises(SystemExit) as ended:
        store.main()
    assert ended.value.code == 0
    assert "python -m benchmarks.store [STORE]" in capsys.readouterr().out


# Scripts that no other test imports


ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("data/backbones/*/*.py"), *ROOT.glob("examples/*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_every_name_that_a_script_takes_from_the_library_exists(script: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        module = node.module or ""
        if node.level or module.split(".")[0] != "difftrack" or module.startswith("difftrack.correspondence.kernels"):
            continue  # kernels need triton, which a machine without a GPU may lack
        room = importlib.import_module(module)
        missing = [
            alias.name
            for alias in node.names
            if not hasattr(room, alias.name) and importlib.util.find_spec(f"{module}.{alias.name}") is None
        ]
        assert not missing, f"{script.name}: from {module} import {', '.join(missing)}"
