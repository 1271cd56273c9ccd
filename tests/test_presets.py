import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from difftrack.annotation import AnnotateParams
from difftrack.backbones import KNOWN, Backbone, ModelParams, constructed_backbone
from difftrack.correspondence import MatchSection
from difftrack.extraction import ExtractParams
from difftrack.guidance import GuideParams
from difftrack.params import parse
from difftrack.presets import (
    Preset,
    PresetError,
    PublishedNumber,
    apply_preset,
    compare_with_published,
    preset_names,
    read_preset,
)
from stages.score import ScoreSection
from stages.survey import SurveySection
from stages.synthesize import SynthesizeSection
from stages.track import TrackSection

PARAMS: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
SECTIONS = {
    "synthesize": SynthesizeSection,
    "annotate": AnnotateParams,
    "extract": ExtractParams,
    "survey": SurveySection,
    "match": MatchSection,
    "score": ScoreSection,
    "track": TrackSection,
    "guide": GuideParams,
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    """Those that the released code has, without memory."""
    names = ("cogvideox-2b", "cogvideox-5b", "cogvideox-2b-i2v", "cogvideox-5b-i2v", "hunyuan-video")
    return {name: constructed_backbone(name) for name in names}


def test_there_is_one_for_each_released_script() -> None:
    kinds = [name.split("-")[0] for name in preset_names()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"analysis": 5, "guidance": 2, "real": 2, "tracking": 6}


@pytest.mark.parametrize("name", preset_names())
def test_every_section_is_one_that_its_stage_reads(name: str) -> None:
    preset = read_preset(name)
    merged = apply_preset(preset, PARAMS)
    assert set(preset.params) <= {*SECTIONS, "backbones"}
    for section, kind in SECTIONS.items():
        parse(kind, merged[section], section)
    (backbone,) = merged["backbones"]
    parse(ModelParams, merged["backbones"][backbone], "backbones")
    assert backbone in KNOWN
    assert any(backbone in command or "stages.guide" in command for command in preset.run)


@pytest.mark.parametrize("name", preset_names())
def test_layers_steps_and_sizes_are_some_that_the_backbone_has(name: str, backbones: dict[str, Backbone]) -> None:
    params = read_preset(name).params
    (backbone_name,) = params["backbones"]
    backbone, views = backbones[backbone_name], params.get("extract", {})
    for view in ("analysis", "tracking"):
        if view in views:
            chosen = views[view]
            assert all(0 <= layer < backbone.num_layers for layer in chosen["layers"])
            assert chosen["steps"] == [chosen["num_inference_steps"] - 1]
            backbone.check_image_size(chosen["height"], chosen["width"])
            assert (chosen["height"], chosen["width"]) == (480, 720)
    for section in (params.get("synthesize", {}).get("generated"), params.get("guide"), views.get("analysis")):
        if section is not None:
            backbone.check_size(section["num_frames"], section["height"], section["width"])
    guided = params.get("guide", {}).get("layers", [])
    assert all(0 <= layer < backbone.num_layers for layer in guided)


def test_published_choices_are_the_papers() -> None:
    """arXiv 2506.17220, appendices C.1, C.2 and D, table 1."""
    tracked = {name: read_preset(f"tracking-davis-{name}").params for name in ("cogvideox-2b", "hunyuan-video")}
    assert tracked["cogvideox-2b"]["track"]["layers"] == [17]
    assert tracked["hunyuan-video"]["extract"]["tracking"]["steps"] == [29]
    assert read_preset("tracking-davis-cogvideox-5b").params["track"]["layers"] == [16]
    assert read_preset("guidance-cogvideox-2b").params["guide"]["layers"] == [13, 17, 21]
    assert read_preset("guidance-cogvideox-5b").params["guide"]["layers"] == [15, 17, 18]
    assert read_preset("real-cogvideox-2b").params["extract"]["analysis"]["num_frames"] == 49
    averages = [number.value for number in read_preset("tracking-davis-cogvideox-2b").published]
    assert averages[-1] == 46.3


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("tracking")])
def test_printed_averages_are_the_averages_of_the_printed_thresholds(name: str) -> None:
    *within, average = (number.value for number in read_preset(name).published)
    assert sum(within) / 5 == pytest.approx(average, abs=0.1)  # all of them rounded to a tenth


def test_a_preset_wins_key_by_key_and_replaces_the_backbones() -> None:
    preset = Preset(
        about="", script="", run=(), params={"backbones": {"b": None}, "extract": {"analysis": {"steps": [1]}}}
    )
    below = {
        "backbones": {"a": {"dtype": "float32"}},
        "extract": {"analysis": {"steps": [7, 8], "width": 3}},
        "track": {},
    }
    assert apply_preset(preset, below) == {
        "backbones": {"b": None},
        "extract": {"analysis": {"steps": [1], "width": 3}},
        "track": {},
    }
    assert below["extract"]["analysis"]["steps"] == [7, 8]


def test_unknown_presets_list_the_known_ones() -> None:
    with pytest.raises(PresetError, match=r"unknown preset 'tracking'.*tracking-davis-cogvideox-2b"):
        read_preset("tracking")


def published(**changes: Any) -> PublishedNumber:
    number = {"what": "average", "value": 46.3, "source": "table 1", "file": "predictions/b/metrics.json"}
    return PublishedNumber(**{**number, "at": "mean tracker d", "scale": 100.0, **changes})


def test_our_number_stands_beside_the_papers(tmp_path: Path) -> None:
    (tmp_path / "out" / "b").mkdir(parents=True)
    (tmp_path / "out" / "b" / "metrics.json").write_text(json.dumps({"mean": {"tracker": {"d": 0.456}}}))
    (tmp_path / "out" / "b" / "best.json").write_text(json.dumps({"layers": [17, 21, 13, 2]}))
    numbers = (
        published(),
        published(value=(13, 17, 21), file="predictions/b/best.json", at="layers"),
        published(file="predictions/c/metrics.json"),
        published(at="mean lucas d"),
        published(file=None),
    )
    preset = Preset(about="", script="", run=(), params={}, published=numbers)
    ours, layers, absent, unknown, unmeasured = compare_with_published(
        preset, {"paths": {"predictions": "out"}}, tmp_path
    )
    assert str(ours) == "average: ours 45.6, published 46.3 (table 1)"
    assert layers.ours == layers.published == (13, 17, 21)
    assert "out/c/metrics.json is not there yet" in str(absent)
    assert "has no mean lucas d" in str(unknown)
    assert "nothing here measures it" in str(unmeasured)


def test_files_stay_small() -> None:
    folder = Path(__file__).parents[1] / "difftrack" / "presets"
    assert max(len(file.read_text().splitlines()) for file in folder.glob("*.yaml")) <= 70
