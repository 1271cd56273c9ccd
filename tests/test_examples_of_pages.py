"""The examples of docs/propagate.md, probe.md and interventions.md run as they stand, on the shipped backbone."""

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def _run(page: str) -> dict[str, Any]:
    """Run the first Python block of a page; gives its names."""
    found = re.search(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], page, "exec"), names)
    return names


def test_masks_are_propagated_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _run("propagate.md")
    assert names["found"].masks.shape == (5, 128, 192)
    assert len(list(Path("thing-masks").glob("*.png"))) == 5
    assert Path("thing.mp4").exists()
    (printed,) = re.findall(r"\[.*\]", capsys.readouterr().out)
    assert all(0.8 < float(number) <= 1 for number in re.findall(r"\d\.\d+", printed))


def test_a_training_is_probed_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    watch = _run("probe.md")["watch"]
    assert sorted(set(watch.table["training_step"])) == [2, 4]
    assert Path("run/probe/probe.csv").exists()
    assert Path("run/probe/emergence.png").exists()
    assert "matching_accuracy" in capsys.readouterr().out


def test_heads_are_removed_and_patched_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    names = _run("interventions.md")
    assert names["acted"] == [1]
    assert len(names["other"].tensors) == 3 * 2
    printed = [float(number) for number in re.findall(r"(\d+\.\d) grey levels", capsys.readouterr().out)]
    assert len(printed) == 2
    assert min(printed) > 0.5
