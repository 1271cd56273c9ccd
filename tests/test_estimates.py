"""What the stages of a run take: counted by hand, and compared with measurements on the card that the rates are of."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from difftrack.datasets import Clip, write_clip
from difftrack.estimates import Card, StageCost, plan_stages, stage_lines, stages_of
from difftrack.presets import apply_preset, commands, preset_names, read_preset

TOP = Path(__file__).parents[1]
PARAMS: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text())


def estimate(name: str, root: Path, num_prompts: int) -> list[StageCost]:
    """Estimate a preset with a given number of prompts."""
    prompts = root / "prompts.txt"
    prompts.write_text("a red disc moves\n" * num_prompts)
    preset = read_preset(name)
    merged = apply_preset(preset, PARAMS)
    if "generated" in preset.params.get("synthesize", {}):
        merged["synthesize"]["generated"] |= {"prompts": str(prompts)}
    if "guide" in preset.params:
        merged["guide"] |= {"prompts": str(prompts)}
    return plan_stages(merged, root=root, commands=list(commands(preset, merged)))


def test_stages_of_commands_are_those_before_them_too_in_their_order() -> None:
    assert stages_of(["dvc repro track@b"]) == ["synthesize", "annotate", "extract:tracking", "track"]
    assert stages_of(["dvc repro annotate"]) == ["synthesize", "annotate"]
    both = ["dvc repro survey@b extract@b-analysis", "python -m difftrack.pipeline score matches=m -- scores=s"]
    assert stages_of(both) == ["synthesize", "annotate", "extract:analysis", "survey", "score"]
    assert stages_of(["python -m difftrack.pipeline guide prompts=p -- samples=s"]) == ["guide"]


@pytest.mark.parametrize("name", preset_names())
def test_every_presets_own_stages_are_planned(name: str) -> None:
    stages = stages_of(read_preset(name).run)
    kinds = {
        "analysis": ["synthesize", "annotate", "extract:analysis", "survey", "score", "report"],
        "real": ["synthesize", "annotate", "extract:analysis", "survey", "score", "report"],
        "tracking": ["synthesize", "annotate", "extract:tracking", "track", "report"],
        "guidance": ["guide"],
    }
    if "kinetics" in name:
        kinds["tracking"] = ["synthesize", "annotate", "track_live", "report"]
    assert stages == kinds[name.partition("-")[0]]


def test_forwards_of_an_analysis_are_two_branches_a_step_and_one_for_the_survey(tmp_path: Path) -> None:
    costs = {cost.stage: cost for cost in estimate("analysis-cogvideox-2b", tmp_path, 3)}
    assert costs["synthesize"].forwards == 3 * 50 * 2
    assert costs["survey"].forwards == 3 * 50
    assert costs["extract"].forwards == pytest.approx(3 * 18 / 30)  # layer 17 is the eighteenth of thirty
    values = 400 * ((4 + 4 + 2) * 13 + 2)  # two matches of four numbers, two of attention; two of the text's
    assert costs["survey"].stored_bytes == 3 * 50 * 30 * values * 4
    trajectory = 50 * 13 * 16 * 60 * 90 * 2
    assert costs["synthesize"].stored_bytes == pytest.approx(3 * (trajectory + 1.8 * 49 * 480 * 720))


@pytest.mark.parametrize(
    ("name", "num_prompts", "measured_s"),
    [
        ("analysis-cogvideox-2b", 2, 242.0),  # with start-up, one NVIDIA H200, random weights at real size
        ("analysis-cogvideox-2b", 100, 1.85 * 3600),
    ],
)
def test_an_estimate_is_within_one_and_a_half_of_what_was_measured(
    tmp_path: Path, name: str, num_prompts: int, measured_s: float
) -> None:
    found = sum(cost.seconds for cost in estimate(name, tmp_path, num_prompts))
    assert measured_s / 1.5 < found < measured_s * 1.5


def test_tracking_counts_the_chunks_of_the_clips_that_there_are(tmp_path: Path) -> None:
    import numpy as np

    preset = read_preset("tracking-davis-cogvideox-2b")
    merged = apply_preset(preset, PARAMS)
    with pytest.raises(ValueError, match="run `dvc repro synthesize`"):
        plan_stages(merged, root=tmp_path, commands=list(commands(preset, merged)))
    for name, num_frames in {"long": 25, "least": 13, "short": 12}.items():
        clip = Clip(name, np.zeros((num_frames, 8, 12, 3), np.uint8), fps=8.0, prompt="", source="folder")
        write_clip(tmp_path / merged["paths"]["clips"], clip)
    costs = {cost.stage: cost for cost in plan_stages(merged, root=tmp_path, commands=list(commands(preset, merged)))}
    assert costs["extract"].forwards == pytest.approx(
        (2 + 1) * 18 / 30
    )  # the released schedule leaves the short clip out
    assert costs["extract"].work.startswith("3 forwards of cogvideox-2b, tracking")


def test_what_dvc_copies_is_counted_once_more(tmp_path: Path) -> None:
    before = {cost.stage: cost for cost in estimate("analysis-cogvideox-2b", tmp_path, 1)}
    assert before["survey"].cached_bytes == before["survey"].stored_bytes > 0
    (tmp_path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"survey": {"outs": [{"${paths.survey}/${item.backbone}": {"cache": False}}, "x"]}}})
    )
    after = {cost.stage: cost for cost in estimate("analysis-cogvideox-2b", tmp_path, 1)}
    assert after["survey"].cached_bytes == 0
    assert after["synthesize"].cached_bytes > 0


def test_lines_say_stages_seconds_bytes_and_their_sum() -> None:
    costs = [
        StageCost("synthesize", "2 clips", 90.0, stored_bytes=3e9, cached_bytes=3e9),
        StageCost("score", "2 clips", 5.0),
    ]
    head, first, _, last = stage_lines(costs, Card(name="some card"))
    assert head == "stages, from scratch, on one some card:"
    assert re.fullmatch(r"  synthesize  2 clips +90\.0 s  3 GB on disk, and 3 GB in DVC's cache", first)
    assert last.split()[:3] == ["total", "95.0", "s"]
