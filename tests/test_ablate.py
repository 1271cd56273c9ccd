"""Grids of interventions: planned, resumed, measured against plain samples, drawn."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import save_cogvideox
from typer.testing import CliRunner

from difftrack.backbones import Backbone, load_backbone
from difftrack.cli import app
from difftrack.interventions import InterventionError
from difftrack.reports import cause_table, draw_causes, rank_correlation
from difftrack.workflows.ablate import AblateParams, Cell, ablate, plan_ablation, ways_of
from difftrack.workflows.ablation_summary import summarize
from difftrack.workflows.prompt_following import prompt_following

PROMPTS = [(0, "a red disc moves left"), (2, "a blue square turns")]
SIZE = {"num_frames": 9, "height": 40, "width": 56}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(f"path:{save_cogvideox(tmp_path_factory.mktemp('one'))}")


def asked(**choices: Any) -> AblateParams:
    return AblateParams(
        **{"seeds": (7,), "num_inference_steps": 1, "matching_clips": 1, "layers": (1, 3), **SIZE, **choices}
    )


@pytest.fixture(scope="module")
def made(model: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell]]:
    """Heads of layers 1 and 3 zeroed, both layers skipped, and guidance by skipping; with the cells that were made."""
    folder = tmp_path_factory.mktemp("grid")
    return folder, list(ablate(model, PROMPTS, WHOLE, folder))


@pytest.fixture(scope="module")
def folder(made: tuple[Path, list[Cell]]) -> Path:
    return made[0]


WHOLE = asked(interventions=("zero", "skip"), guidances=(("skip", 0.5, (1,)),))


def test_ways_are_a_place_each() -> None:
    names = [way.name for way in ways_of(WHOLE, 4, 2)]
    assert names == [
        "plain",
        *(f"zero-l{layer:02d}-h{head:02d}" for layer in (1, 3) for head in (0, 1)),
        "skip-l01",
        "skip-l03",
        "guided-skip-0.5-l1",
    ]
    assert len(ways_of(asked(interventions=("own_frame",), each="layer", layers="all"), 4, 2)) == 5
    with pytest.raises(InterventionError, match=r"there are layers 0 to 2"):
        ways_of(WHOLE, 3, 2)


def test_a_plan_counts_forwards_and_makes_nothing(model: Backbone, tmp_path: Path) -> None:
    """8 ways x 2 prompts x (2 branches, a third if guided, and 2 for the judge), and 7 matchings."""
    planned = plan_ablation(model, PROMPTS, WHOLE, tmp_path / "none")
    assert len(planned.cells) == len(planned.waiting) == 8 * 2 + 7
    assert sum(cell.num_forwards for cell in planned.cells) == 7 * 2 * 4 + 2 * 5 + 7
    assert not (tmp_path / "none").exists()


def test_a_run_goes_on_where_it_stopped_and_makes_again_what_is_asked_otherwise(
    model: Backbone, folder: Path, tmp_path: Path
) -> None:
    assert not plan_ablation(model, PROMPTS, WHOLE, folder).waiting
    params = asked(interventions=("zero",), layers=(1,), heads=(0,), matching_clips=0)
    running = ablate(model, PROMPTS, params, tmp_path)
    first = next(running)
    running.close()
    left = plan_ablation(model, PROMPTS, params, tmp_path)
    assert [cell.done for cell in left.cells] == [True, False, False, False]
    before = first.file.stat().st_mtime_ns
    assert len(list(ablate(model, PROMPTS, params, tmp_path))) == 3
    assert first.file.stat().st_mtime_ns == before
    other = asked(interventions=("zero",), layers=(1,), heads=(0,), matching_clips=0, num_inference_steps=2)
    assert len(plan_ablation(model, PROMPTS, other, tmp_path).waiting) == 4
    first.file.write_text("{")
    assert [cell.done for cell in plan_ablation(model, PROMPTS, params, tmp_path).cells] == [False, True, True, True]


def test_a_run_that_is_stopped_leaves_whole_pairs_behind(
    model: Backbone, made: tuple[Path, list[Cell]], tmp_path: Path
) -> None:
    """The first prompt's 8 ways and 7 matchings are done before the first way of the other prompt."""
    _, cells = made
    assert cells[0].way.name == "plain"
    assert [cell.prompt for cell in cells if cell.prompt is not None] == [0] * 8 + [2] * 8
    assert [cell.prompt is None for cell in cells[:15]].count(True) == 7
    for cell in cells[:15]:
        shutil.copytree(cell.file.parent, tmp_path / "cells" / cell.way.name, dirs_exist_ok=True)
    for file in tmp_path.rglob("002-7.*"):
        file.unlink()
    summary = summarize(model, PROMPTS, WHOLE, tmp_path)
    assert {row["pairs"] for row in summary["ways"]} == {1}
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_a_summary_names_all_versions_of_a_grid_that_went_on_elsewhere(
    model: Backbone, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "moved"
    shutil.copytree(folder, other)
    file = other / "cells/skip-l03/002-7.json"
    cell = json.loads(file.read_text())
    cell["made_by"]["versions"]["torch"] = "1.2.3"
    file.write_text(json.dumps(cell))
    params = replace(WHOLE, reuse="params")
    assert not plan_ablation(model, PROMPTS, params, other).waiting
    found = summarize(model, PROMPTS, params, other)["versions"]["torch"]
    assert found == f"1.2.3, {torch.__version__.partition('+')[0]}"
    assert len(plan_ablation(model, PROMPTS, WHOLE, other).waiting) == 1


def test_a_summary_compares_each_way_with_the_plain_samples_of_the_same_pairs(model: Backbone, folder: Path) -> None:
    summary = summarize(model, PROMPTS, WHOLE, folder)
    assert json.loads((folder / "ablation.json").read_text()) == json.loads(json.dumps(summary))
    rows = {row["way"]: row for row in summary["ways"]}
    zero = rows["zero-l01-h01"]
    cells = {
        way: [json.loads((folder / "cells" / way / f"{prompt:03d}-7.json").read_text()) for prompt in (0, 2)]
        for way in ("plain", "zero-l01-h01")
    }
    motion = {way: [cell["measures"]["motion_px"] for cell in found] for way, found in cells.items()}
    differences = np.subtract(motion["zero-l01-h01"], motion["plain"])
    found = zero["measures"]["motion_px"]["difference"]
    assert found["mean"] == pytest.approx(differences.mean())
    assert found["low"] == pytest.approx(differences.min())
    assert zero["measures"]["error"]["value"]["mean"] > 0
    assert rows["plain"]["measures"]["error"]["value"]["mean"] == 0
    matching = json.loads((folder / "cells/plain/matching.json").read_text())["matching"]
    (of_heads,) = matching["head_accuracy"].values()
    assert zero["own_matching_accuracy"] == pytest.approx(of_heads[1][1])
    assert json.loads((folder / "cells/skip-l01/matching.json").read_text())["matching"]["layers"] == [0, 2, 3]
    assert "matching_accuracy" not in rows["guided-skip-0.5-l1"]["measures"]
    lines = list(cause_table(summary))
    assert len(lines) == 2 + len(rows)
    assert lines[0].startswith("| way | pairs | `motion_px` |")
    (file,) = draw_causes(summary, folder)
    assert file.name == "causes-zero.png"
    assert file.stat().st_size > 10_000


def test_layers_before_a_removed_head_match_as_before(folder: Path) -> None:
    """Zeroing layer 3 changes no earlier layer, and not its own queries and keys."""
    plain, zero = (
        json.loads((folder / "cells" / way / "matching.json").read_text())["matching"]["accuracy"]
        for way in ("plain", "zero-l03-h00")
    )
    assert plain == zero


def test_a_foreign_folder_is_not_written_into(model: Backbone, tmp_path: Path) -> None:
    (tmp_path / "ablation.json").write_text('{"mine": true}')
    with pytest.raises(InterventionError, match="belongs to something else"):
        next(ablate(model, PROMPTS, WHOLE, tmp_path))


def test_a_prompt_is_followed_as_much_as_the_other_way_round_is_not(model: Backbone) -> None:
    """(a / b - 1) and (b / a - 1) of the two errors; no value for the same prompt twice."""
    frames = np.random.default_rng(0).integers(0, 256, (9, 40, 56, 3), dtype=np.uint8)
    one, other = (text for _, text in PROMPTS)
    there = prompt_following(model, frames, one, other, steps=(10,))
    back = prompt_following(model, frames, other, one, steps=(10,))
    assert (1 + there) * (1 + back) == pytest.approx(1, abs=1e-9)
    assert there != 0
    assert prompt_following(model, frames, one, one, steps=(3, 10)) == 0


def test_a_rank_correlation_and_its_interval_worked_by_hand() -> None:
    """Ranks 1, 2, 3 against 3, 2, 1 correlate by -1 in every draw of pairs that agree."""
    changes = np.array([[3.0, 30.0], [2.0, 20.0], [1.0, 10.0]])
    assert rank_correlation(np.array([0.1, 0.2, 0.7]), changes) == (-1.0, -1.0, -1.0)
    rho, low, high = rank_correlation(np.array([0.1, 0.2, 0.7]), changes[:, :1])
    assert (rho, low, high) == (-1.0, None, None)
    rho, low, high = rank_correlation(np.array([0.1, 0.2, 0.7]), np.full((3, 2), 5.0))
    assert np.isnan(rho)
    assert (low, high) == (None, None)


def test_the_verb_plans_runs_and_tells(tmp_path: Path, folder: Path, model: Backbone) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red disc moves left\n")
    arguments = ["ablate", str(prompts), "--backbone", f"path:{model.name.removeprefix('path:')}"]
    choices = "--seeds 7 --sampling-steps 1 --size 9x40x56 --clips 0 --layers 1 --heads 0-1 --judged-steps none"
    arguments += [*choices.split(), "--device", "cpu", "--out", str(tmp_path / "out")]
    planned = CliRunner().invoke(app, [*arguments, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert "3 ways, 3 cells: 3 to do, 0 done before; 6 forwards of one branch" in planned.output
    assert "a forward takes" in planned.output
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "| zero-l01-h01 | 1 |" in done.output
    assert (tmp_path / "out/ablation.csv").exists()
    again = CliRunner().invoke(app, arguments)
    assert "0 to do, 3 done before" in again.output
    wrong = CliRunner().invoke(app, [*arguments, "--do", "remove"])
    assert wrong.exit_code == 1
    assert "'remove' is not an intervention; expected zero" in wrong.output
