"""Benchmarks say how they are called."""

import importlib
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
