"""Benchmarks at sizes at which they take seconds: what they say of themselves, not how long it took."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def test_the_store_benchmark_weighs_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    store = importlib.import_module("benchmarks.store")

    def once(action: Callable[[], object]) -> float:
        action()
        return 1.0

    monkeypatch.setattr(store, "_seconds", once)
    query, key = np.random.default_rng(0).normal(size=(2, 3, 5, 7, 13, 11)).astype(np.float16)
    rows = store._compare(tmp_path / "store", query, key)
    assert rows["np.memmap"].ratio == pytest.approx(1)
    assert rows["store, codec none"].ratio == pytest.approx(1, abs=0.02)
    assert 1.5 < rows["store, dtype int8"].ratio < 2
    assert all(row.matches_kept == 1 for name, row in rows.items() if "dtype" not in name)


def test_each_change_of_a_prompt_changes_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    prompts = importlib.import_module("benchmarks.prompts")
    one = "a red rocky star moves down and right shrinking over a blue photo background"
    two = "a red rocky star moves left and a pink dotted star stands still over a blue photo background"
    changed = {name: change(one) for name, change in prompts.CHANGES.items()}
    assert changed["right"] == one
    assert changed["both exchanged"] == "a blue rocky star moves down and right shrinking over a red photo background"
    assert changed["directions reversed"] == "a red rocky star moves up and left shrinking over a blue photo background"
    assert changed["no prompt"] == ""
    for name, place in (("an object's colour", 1), ("background's colour", 11), ("shapes", 3)):
        before, after = one.split(), changed[name].split()
        assert [number for number in range(len(before)) if before[number] != after[number]] == [place], name
        assert after[place] not in before
    assert prompts.change_shapes(two).split().count("star") == 0
    assert prompts.exchange_colours(two).split()[1] == "blue"
