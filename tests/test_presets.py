import json
import pickle
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from typer.testing import CliRunner

from difftrack.backbones import KNOWN, Backbone, constructed_backbone
from difftrack.cli import app
from difftrack.configuration import configuration_from
from difftrack.evaluation import TrackSection
from difftrack.params import parse
from difftrack.presets import (
    Preset,
    PresetError,
    PublishedNumber,
    apply_preset,
    commands,
    compare_with_published,
    missing_inputs,
    open_workspace,
    preset_names,
    read_overrides,
    read_preset,
)

TOP = Path(__file__).parents[1]
PARAMS: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text())


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
    assert set(preset.params) <= set(PARAMS) - {"paths"}
    (backbone,) = configuration_from(merged, file=name).backbones
    assert backbone in KNOWN
    assert any(backbone in command or "difftrack.pipeline guide" in command for command in preset.run)


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
    assert all(read_preset(name).params["track"]["heads"] == "all" for name in preset_names() if "tracking" in name)
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


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("tracking")])
def test_heads_of_the_small_backbone_do_not_leak_into_a_preset(name: str) -> None:
    below = yaml.safe_load((TOP / "params.yaml").read_text())
    section = parse(TrackSection, apply_preset(read_preset(name), below)["track"], "track")
    assert isinstance(section.layers, tuple)
    assert section.heads_of(section.layers[0], range(29)) == tuple(range(29))


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


def test_our_number_says_where_it_is_agreement_with_a_tracker_only(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "b"
    folder.mkdir(parents=True)
    guessed = {"mean": {}, "pseudo_truth": {"cotracker3": {"mean": {"tracker": {"d": 0.5}}}}}
    (folder / "metrics.json").write_text(json.dumps(guessed))
    best = {"layer": 17, "step": 3, "value": 0.5}
    (folder / "summary.json").write_text(json.dumps({"group": "pseudo_truth/cotracker3", "matching_accuracy": best}))
    numbers = (
        published(),
        published(value=50.0, file="predictions/b/summary.json", at="matching_accuracy value"),
    )
    preset = Preset(about="", script="", run=(), params={}, published=numbers)
    tracked, matched = compare_with_published(preset, {"paths": {"predictions": "out"}}, tmp_path)
    assert tracked.ours is None
    assert "has no mean tracker d: the truth of every clip is pseudo-truth by cotracker3" in str(tracked)
    assert str(matched) == (
        "average: ours 50 (the truth of every clip is pseudo-truth by cotracker3), published 50 (table 1)"
    )


# A folder of its own


@pytest.mark.parametrize(
    ("assignment", "named", "dry"),
    [
        ("track.layer=17", "unknown key track.layer", ()),
        ("foo.bar=1", "unknown section foo", ("--dry-run",)),
        ("synthesize=3", "synthesize is 3", ("--dry-run",)),
        ("paths.clips=3", "paths.clips is 3", ()),
        ("backbones=null", "backbones names none", ("--dry-run",)),
    ],
)
def test_what_no_stage_can_use_is_refused_before_anything_is_made(
    assignment: str, named: str, dry: tuple[str, ...], tmp_path: Path
) -> None:
    name, work = "guidance-cogvideox-2b", tmp_path / "work"
    where = ("--params", str(TOP / "params.yaml"), "--work", str(work))
    prompts = ("--set", f"guide.prompts={TOP / 'data/prompts/guide.txt'}")
    result = CliRunner().invoke(app, ["preset", name, *dry, *where, *prompts, "--set", assignment])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert f"preset {name} over {TOP / 'params.yaml'}: {named}" in result.stderr
    assert not work.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("guidance-cogvideox-2b", "--dry-run", "--first", "0"),
        ("guidance-cogvideox-2b", "--first", "-2"),
        ("--first", "3"),
        ("--set", "score.threshold_px=4"),
        ("--work", "here"),
    ],
)
def test_first_wants_a_preset_and_at_least_one(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["preset", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert words[-2] in result.stderr


def test_a_preset_over_params_that_lack_its_other_sections_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("paths: {}")
    where = ("--dry-run", "--params", str(tmp_path / "params.yaml"))
    result = CliRunner().invoke(app, ["preset", "guidance-cogvideox-2b", *where])
    assert result.exit_code == 0, result.stderr
    assert "missing: guide.prompts" in result.stdout
    assert "ours - (paths.scores is not set), published 0.9313" in result.stdout


def project(top: Path, **params: Any) -> dict[str, Any]:
    """Something that looks like the project: code, data, results."""
    for folder in ("stages", "data/prompts", "data/clips/mine", "data/presets/other/.dvc", ".git"):
        (top / folder).mkdir(parents=True)
    (top / "dvc.yaml").write_text("stages: {}")
    (top / "params.yaml").write_text("as: it was")
    (top / "data" / "prompts" / "p.txt").write_text("zero\none\ntwo\n")
    return {"paths": {"clips": "data/clips", "report": "data/report"}, **params}


GENERATED = {"sources": ["generated"], "generated": {"prompts": "data/prompts/p.txt"}}


def test_a_workspace_looks_like_the_project_but_for_params_and_results(tmp_path: Path) -> None:
    params = project(tmp_path, synthesize=GENERATED)
    work = tmp_path / "data" / "presets" / "mine"
    preset = Preset(about="", script="", run=(), params={"synthesize": {}})
    for _ in range(2):  # opened again, it is the same
        assert open_workspace(work, tmp_path, preset, params) == params
    assert yaml.safe_load((work / "params.yaml").read_text()) == params
    assert (tmp_path / "params.yaml").read_text() == "as: it was"
    assert (work / "dvc.yaml").read_text() == "stages: {}"
    assert (work / "stages").resolve() == tmp_path / "stages"
    assert (work / "data" / "prompts" / "p.txt").read_text().startswith("zero")
    assert not (work / "data" / "clips").exists()
    assert not (work / "data").is_symlink()
    assert not list((work / "data" / "presets").iterdir())
    assert not (work / ".git").exists()


def test_fewer_prompts_and_clips_keep_their_numbers(tmp_path: Path) -> None:
    indices = tmp_path / "chosen.txt"
    indices.write_text("2\n0\n1\n")
    sources = {
        "sources": ["generated", "folder"],
        "generated": {"prompts": "data/prompts/p.txt", "indices": str(indices)},
        "folder": {"path": "videos", "start": 3},
    }
    params = project(tmp_path / "top", synthesize=sources, guide={"prompts": "data/prompts/p.txt"})
    preset = Preset(about="", script="", run=("run ${guide.prompts}",), params={"synthesize": {}, "guide": {}})
    work = tmp_path / "work"
    fewer = open_workspace(work, tmp_path / "top", preset, params, first=2)
    assert (work / fewer["synthesize"]["generated"]["indices"]).read_text().split() == ["2", "0"]
    assert (work / fewer["guide"]["prompts"]).read_text().split() == ["zero", "one"]
    assert fewer["synthesize"]["folder"] == {"path": "videos", "start": 3, "end": 5}
    assert list(commands(preset, fewer)) == ["run prompts.txt"]
    with pytest.raises(PresetError, match="at least 1"):
        open_workspace(work, tmp_path / "top", preset, params, first=0)
    with pytest.raises(PresetError, match=r"holds no dvc\.yaml"):
        open_workspace(work, tmp_path, preset, params)


def test_overrides_win_over_the_preset_and_merge() -> None:
    overrides = read_overrides(["backbones.b={path: x}", "extract.analysis.steps=[3]", "extract.max_bytes=1.0e+6"])
    assert overrides["extract"] == {"analysis": {"steps": [3]}, "max_bytes": 1e6}
    preset = Preset(about="", script="", run=(), params={"backbones": {"b": {"dtype": "bfloat16"}}})
    merged = apply_preset(preset, {"backbones": {"a": {}}, "extract": {"analysis": {"width": 7}}}, overrides)
    assert merged["backbones"] == {"b": {"dtype": "bfloat16", "path": "x"}}
    assert merged["extract"]["analysis"] == {"width": 7, "steps": [3]}
    for wrong in ("score", "=1", "score..x=1", "score={"):
        with pytest.raises(PresetError, match=r"wanted: section|not valid YAML"):
            read_overrides([wrong])


def test_what_a_preset_reads_and_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    preset = read_preset("analysis-cogvideox-5b-i2v")
    problems = missing_inputs(preset, apply_preset(preset, PARAMS), tmp_path)
    assert [problem.split(" is ")[0] for problem in problems] == [
        "synthesize.generated.prompts",
        "synthesize.generated.images",
        "annotate.published",
    ]
    assert "--set annotate.published=WHERE" in problems[-1]
    (tmp_path / "data" / "released" / "dataset" / "cogvideox_i2v_5b" / "fg" / "images").mkdir(parents=True)
    (tmp_path / "data" / "released" / "dataset" / "cogvideox_i2v_5b" / "fg" / "prompt.txt").touch()
    assert missing_inputs(preset, apply_preset(preset, PARAMS), tmp_path) == []


# One command each, on a tiny folder in place of the checkpoint


TINY = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("tiny"))


def run(name: str, *words: object, tiny: Path, work: Path, **changes: Any) -> str:
    """What `difftrack preset` prints, the backbone's weights being a tiny folder."""
    model = json.dumps({"path": str(tiny), "dtype": "float32", "device": "cpu"})
    backbone = name.split("-", 1)[1].removeprefix("davis-")
    overrides = {f"backbones.{backbone}": model, **{key: json.dumps(value) for key, value in changes.items()}}
    assignments = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    command = [str(word) for word in ("preset", name, "--work", work, *words, *assignments)]
    if "--dry-run" in words:  # starts no process, whose output would go past this one's
        with chdir(TOP):
            result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        return result.stdout
    python = [sys.executable, "-c", "from difftrack.cli import app; app()"]
    done = subprocess.run([*python, *command], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stand_in(folder: Path) -> str:
    """A program that is called like VBench; it finds 0.25 in the videos that come first, the guided ones, else 0.5."""
    program = folder / "vbench"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "words = sys.argv\n"
        "(video,) = pathlib.Path(words[words.index('--videos_path') + 1]).iterdir()\n"
        "seen = pathlib.Path(__file__).with_suffix('.seen'); first = not seen.exists(); seen.touch()\n"
        "out = pathlib.Path(words[words.index('--output_path') + 1]); out.mkdir()\n"
        "score = [{'video_path': str(video), 'video_results': 0.25 if first else 0.5}]\n"
        "names = words[words.index('--dimension') + 1].split()\n"
        "(out / 'x_eval_results.json').write_text(json.dumps({name: [0, score] for name in names}))\n"
    )
    program.chmod(0o755)
    return str(program)


def test_the_guidance_preset_runs_by_one_command(tiny: Path, tmp_path: Path) -> None:
    before = (TOP / "params.yaml").read_bytes()
    prompts = str(TOP / "data" / "prompts" / "guide.txt")
    section = {**TINY, "prompts": prompts, "num_frames": NUM_FRAMES, "layers": [1, 2], "num_inference_steps": 2}
    out = run("guidance-cogvideox-2b", "--first", 1, tiny=tiny, work=tmp_path / "work", guide=section)
    assert out.startswith("$ python -m difftrack.pipeline guide prompts=prompts.txt -- samples=data/samples")
    samples = tmp_path / "work" / "data" / "samples"
    assert [folder.name for folder in samples.iterdir() if folder.is_dir()] == ["000"]
    assert (samples / "000" / "side_by_side.mp4").exists()
    assert "ours - (data/scores/vbench.json is not there yet), published 0.9313 (table 2 by VBench)" in out
    scores = tmp_path / "work" / "data" / "scores" / "vbench.json"
    result = CliRunner().invoke(app, ["vbench", str(samples), "--out", str(scores), "--executable", stand_in(tmp_path)])
    assert result.exit_code == 0, result.stderr
    again = run("guidance-cogvideox-2b", "--dry-run", tiny=tiny, work=tmp_path / "work", guide=section)
    assert "dynamic degree, guided (plain 0.7917): ours 0.25, published 0.8235" in again
    assert (TOP / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_the_analysis_preset_runs_by_one_command_and_prints_both_numbers(tiny: Path, tmp_path: Path) -> None:
    choices: dict[str, Any] = {
        "synthesize.generated": {
            **TINY,
            "prompts": str(TOP / "data" / "prompts" / "mini.txt"),
            "num_frames": NUM_FRAMES,
        },
        "annotate": {"tracker": "lucas_kanade", "published": None},
        "extract.analysis": {**TINY, "num_frames": NUM_FRAMES, "steps": [3], "layers": [2]},
    }
    name, work = "analysis-cogvideox-2b", tmp_path / "work"
    out = run(name, "--first", 1, tiny=tiny, work=work, **choices)
    accuracy = json.loads((work / "data/scores/cogvideox-2b/summary.json").read_text())["matching_accuracy"]["value"]
    *_, layers, percent = out.splitlines()
    assert layers.endswith("published 13, 17, 21 (appendix D)")
    assert "ours 0, " in layers or "ours 1, " in layers  # three of the four layers
    truth = "the truth of every clip is pseudo-truth by lucas_kanade"
    assert f"ours {100 * accuracy:g} ({truth}), published 63.5" in percent
    cells = json.loads((work / "data/scores/cogvideox-2b/scores.json").read_text())
    labels = cells["groups"]["all"]["labels"]
    assert (labels["step"], labels["layer"]) == ([0, 1, 2, 3], [0, 1, 2, 3])  # the whole map, not what is extracted
    again = run(name, "--first", 1, tiny=tiny, work=work, **choices)
    assert "Running stage" not in again
    assert again.splitlines()[-2:] == [layers, percent]


@pytest.mark.slow
def test_the_tracking_preset_runs_by_one_command_and_prints_both_numbers(tiny: Path, tmp_path: Path) -> None:
    """On a TAP-Vid file of one clip in which nothing moves."""
    still = np.random.default_rng(0).integers(0, 255, (1, 53, 71, 3), dtype=np.uint8).repeat(14, axis=0)
    clip = {"video": still, "points": np.full((3, 14, 2), 0.5), "occluded": np.zeros((3, 14), dtype=bool)}
    (tmp_path / "davis.pkl").write_bytes(pickle.dumps({"still": clip}))
    choices: dict[str, Any] = {
        "synthesize.folder.path": str(tmp_path / "davis.pkl"),
        "extract.tracking": {**TINY, "steps": [3], "layers": [2]},
        "track.layers": [2],
    }
    out = run("tracking-davis-cogvideox-2b", tiny=tiny, work=tmp_path / "work", **choices)
    metrics = json.loads((tmp_path / "work/data/predictions/cogvideox-2b/metrics.json").read_text())
    ours = 100 * metrics["mean"]["tracker"]["average_pts_within_thresh"]
    assert f"average over thresholds: ours {ours:g}, published 46.3 (table 1)" in out
    assert out.count(", published ") == 6


def test_files_stay_small() -> None:
    folder = Path(__file__).parents[1] / "difftrack" / "presets"
    assert max(len(file.read_text().splitlines()) for file in folder.glob("*.yaml")) <= 70
