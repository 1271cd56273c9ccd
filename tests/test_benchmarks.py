"""Benchmarks at sizes that take seconds: what they report, not how long it took."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from difftrack.backbones import ModelParams, load_backbone, shipped_backbone
from difftrack.backbones._folder import PipelineFolder
from difftrack.workflows.ablate import AblateParams

ROOT = Path(__file__).parents[1]
WAYS = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}


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


def test_motion_is_told_apart_from_that_of_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    motion = importlib.import_module("benchmarks.motion")
    rng = np.random.default_rng(3)
    ground, thing = (rng.integers(0, 256, (200, 260, 3)) for _ in range(2))
    smooth = np.ones(5) / 5
    for axis in (0, 1):
        ground, thing = (np.apply_along_axis(np.convolve, axis, noise, smooth, "same") for noise in (ground, thing))

    def clip(step_x: int, step_y: int) -> np.ndarray:
        """A square moves over a background that itself moves one px to the right a frame."""
        frames = []
        for time in range(17):
            frame = ground[20:148, 40 - time : 232 - time].copy()
            y, x = 44 + step_y * time, 76 + step_x * time
            frame[y : y + 40, x : x + 40] = thing[:40, :40]
            frames.append(frame)
        return np.stack(frames).astype(np.uint8)

    moved = {word: motion.motion_of(clip(1 + 2 * x, 2 * y)) for word, (x, y) in WAYS.items()}
    for word, (x, y) in WAYS.items():
        np.testing.assert_allclose(moved[word], (2 * x, 2 * y), atol=0.6)  # less at the edges
    asked = motion.obedience(list(moved.values()), list(WAYS))
    assert asked["within_45_degrees"] == 1
    assert asked["against"] == 0
    assert asked["px_per_frame"] == pytest.approx(2, abs=0.6)
    turned = motion.obedience(list(moved.values()), ["down", "left", "up", "right"])
    assert turned["within_45_degrees"] == 0
    assert motion.obedience([np.zeros(2)], ["up"])["within_45_degrees"] == 0


def test_outlines_are_named_whatever_their_place_turn_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    shapes = importlib.import_module("benchmarks.shapes")
    outlines = shapes.outlines_of_shapes()
    assert set(outlines) == set(shapes.KNOWN)
    rows, cols = np.mgrid[:130, :190]
    for number, (name, outline) in enumerate(outlines.items()):
        x, y = cols - 70 - 3 * number, rows - 60
        angle = (np.arctan2(y, x) + 0.7 * number) / (2 * np.pi) * len(outline)
        inside = np.hypot(x, y) < (20 + 2 * number) * np.interp(angle, np.arange(len(outline)), outline, period=128)
        assert shapes.shape_of(inside, outlines)[0] == name
    speck = np.zeros((130, 190), dtype=bool)
    speck[5, 7] = True
    assert shapes.shape_of(speck, outlines) == ("none", float("inf"))


def test_a_guess_is_right_where_the_right_word_has_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    shapes = importlib.import_module("benchmarks.shapes")
    errors = np.full((2, len(shapes.KNOWN), 3), 2.0)
    errors[0, shapes.KNOWN.index("star")] = 1.0
    errors[1, shapes.KNOWN.index("circle"), :2] = 1.0
    found = shapes.guessed(errors, ["star", "square"], (5, 10, 20))
    assert found["steps"] == [5, 10, 20]
    assert found["right"] == [0.5, 0.5, 0.5]
    assert found["right_over_all_steps"] == 0.5
    assert found["error_of_any_word_over_that_of_the_right_one"][0] == pytest.approx((17 / 9 + 17 / 18) / 2)


def test_cards_show_every_shape_by_turns_under_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    shapes = importlib.import_module("benchmarks.shapes")
    found = list(shapes._cards(11, 3))
    assert [shape for _, _, shape in found] == list(shapes.KNOWN[:3])
    assert all(shape in prompt.split() for _, prompt, shape in found)


def test_parts_measured_before_are_kept_for_the_same_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    shapes = importlib.import_module("benchmarks.shapes")
    file = tmp_path / "shapes.json"
    assert shapes._kept(file, "a") == {}
    file.write_text(json.dumps({"fingerprint": "a", "shown": 1}))
    assert shapes._kept(file, "a")["shown"] == 1
    assert shapes._kept(file, "b") == {}


TWO_ROWS = """# Page

<!-- numbers: prompts -->
| said wrong | step 0 | step 5 |
| --- | --- | --- |
| a colour | 1.00 (0 %) | 2.00 (0 %) |
| **nothing** | **1.00 (0 %)** | **9.99 (0 %)** |

1.00 (0 %) of prose stays.
"""


def _prompts_results(name: str) -> dict[str, object]:
    assert name == "prompts"
    change = {"error_over_right": [1.593, 1.004], "share_of_clips_that_it_costs": [0.8125, 0.5]}
    return {"changes": {"colour": change, "none": change | {"error_over_right": [7.0, 11.0]}}}


def test_tables_are_filled_in_and_keep_their_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    tables = importlib.import_module("benchmarks.tables")
    filled = tables.fill(TWO_ROWS, _prompts_results)
    assert filled.splitlines()[5:7] == [
        "| a colour | 1.59 (81 %) | 1.00 (50 %) |",
        "| **nothing** | **7.00 (81 %)** | **11.00 (50 %)** |",
    ]
    assert filled.splitlines()[:5] + filled.splitlines()[7:] == TWO_ROWS.splitlines()[:5] + TWO_ROWS.splitlines()[7:]
    assert tables.fill(filled, _prompts_results) == filled
    with pytest.raises(ValueError, match="the table prompts has 1 rows, and there are numbers for 2"):
        tables.fill(TWO_ROWS.replace("| **nothing** | **1.00 (0 %)** | **9.99 (0 %)** |\n", ""), _prompts_results)
    with pytest.raises(ValueError, match="2 numbers would leave no title"):
        tables.fill(TWO_ROWS.replace("| a colour |", "|"), _prompts_results)
    with pytest.raises(ValueError, match="numbers 'weather' are unknown; known are tracking-study"):
        tables.fill(TWO_ROWS.replace("prompts", "weather"), _prompts_results)


def test_committed_tables_say_what_the_committed_results_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    tables = importlib.import_module("benchmarks.tables")
    monkeypatch.setattr("sys.argv", ["tables", "--check"])
    with pytest.raises(SystemExit) as left:
        tables.main()
    assert (left.value.code, capsys.readouterr().out) == (0, "all tables say what the results say\n")
    pages = [page.read_text("utf-8") for pattern in tables.PAGES for page in ROOT.glob(pattern)]
    named = {name for page in pages for name in re.findall(r"<!-- numbers: (\S+) -->", page)}
    assert named == set(tables.TABLES)


def test_committed_results_are_of_the_weights_that_ship() -> None:
    results = ROOT / "benchmarks" / "results"
    measured = {}
    for file in results.rglob("*.json"):
        content = json.loads(file.read_text("utf-8"))
        of = content.get("fingerprint", content.get("backbone")) if isinstance(content, dict) else None
        if isinstance(of, str) and not re.search(r"_run\d+$", file.stem):
            measured[file.relative_to(results).as_posix()] = of
    assert {"backbone.json", "tracking_study_160x240.json", "guidance_study/measures.json"} <= set(measured)
    shipped = PipelineFolder(shipped_backbone()).fingerprint()
    assert {name: of for name, of in measured.items() if of != shipped} == {}


def test_the_study_of_causes_is_the_one_that_the_benchmark_makes_and_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 layers of 4 heads: plain samples and three ways of guidance, each with all pairs of prompt and seed."""
    from difftrack.workflows.ablate import AblateParams, ways_of

    monkeypatch.syspath_prepend(str(ROOT))
    causes = importlib.import_module("benchmarks.causes")
    study = json.loads((ROOT / "benchmarks/results/ablation/ablation.json").read_text("utf-8"))
    asked = AblateParams(**causes.SMALL)
    wanted = json.loads(json.dumps(asdict(asked)))
    assert {**study["params"], "reuse": "exact"} == wanted
    assert [way["way"] for way in study["ways"]] == [way.name for way in ways_of(asked, 8, 4)]
    assert {way["pairs"] for way in study["ways"]} == {causes.FEW_PROMPTS * len(asked.seeds)}
    assert {"device", "date"} <= study["machine"].keys()
    assert "torch" in study["versions"]


def test_a_study_is_written_with_a_line_for_each_way_and_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    causes = importlib.import_module("benchmarks.causes")
    summary = {"params": {"seeds": [7]}, "ways": [{"way": "plain"}, {"way": "b"}], "pairs": {"plain": [{}], "b": []}}
    text = causes.compact(summary)
    assert json.loads(text) == summary
    assert '  {"way": "b"}\n' in text
    assert '  "plain": [{}],\n' in text


def test_the_study_reads_the_heads_that_the_pipeline_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    tracking = importlib.import_module("benchmarks.tracking")
    params = tmp_path / "params.yaml"
    for written, named in (("{6: [1, 3], 7: [2]}", ["6.1", "6.3", "7.2"]), ("all", [])):
        params.write_text(f"track:\n  heads: {written}\n")
        assert tracking.heads_of_params(params) == named


def test_the_first_run_is_told_apart_by_what_it_is_spent_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that writes one video has its stage's name, and its shares, with imports, are within its total."""
    monkeypatch.syspath_prepend(str(ROOT))
    first_run = importlib.import_module("benchmarks.first_run")
    code = (
        "import numpy as np\n"
        "from difftrack.media import write_video\n"
        "write_video(__import__('pathlib').Path('v.mp4'), np.zeros((9, 64, 96, 3), np.uint8), 8.0, lossless=True)\n"
    )
    script = tmp_path / "stages.py"
    script.write_text(code)
    environment = first_run.watched(tmp_path) | {"PYTHONPATH": f"{ROOT / 'benchmarks/profiling'}{os.pathsep}{ROOT}"}
    words = [sys.executable, str(script), "stages.extract", "item.view=tracking"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    (process,) = first_run.processes_of([json.loads(file.read_text()) for file in tmp_path.glob("*.json")])
    assert process["name"] == "extract tracking"
    imports, video, rest = (first_run.shares(process)[index] for index in (0, 5, 6))
    assert imports > 0 < video
    assert 0 <= rest < process["cpu_s"] - imports - video + 1e-9
    run = {"processes": [process], "wall_s": 2.0}
    assert [line.split("|")[1].strip() for line in first_run.table(run).splitlines()[2:]] == ["extract tracking", "all"]


def test_what_looking_at_the_same_place_matches_is_computed_and_the_page_quotes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    causes = importlib.import_module("benchmarks.causes")
    kept = json.loads((causes.RESULTS / "ablation" / "ablation.json").read_text())["still_accuracy"]
    backbone = load_backbone("cogvideox-mini", ModelParams(device="cpu"))
    assert causes.still_accuracy(backbone, AblateParams(**causes.SMALL)) == pytest.approx(kept, abs=1e-9)
    page = (ROOT / "docs" / "interventions.md").read_text()
    assert f"a head that looks at the same place matches {100 * kept:.1f} % of their points" in page
