import json
import pickle
import re
import shlex
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
from warm_python import python

from difftrack.annotation import import_published
from difftrack.backbones import KNOWN, Backbone, constructed_backbone
from difftrack.cli import app
from difftrack.configuration import configuration_from
from difftrack.correspondence import MatchSection
from difftrack.evaluation import TrackSection
from difftrack.media import read_image, write_image
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
from difftrack.prompts import read_prompts
from difftrack.store import open_store

TOP = Path(__file__).parents[1]
PARAMS: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text())


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    """Presets of the released code, without memory switches."""
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


def test_hunyuan_is_matched_at_the_temperature_of_the_released_code() -> None:
    """The root of 128 // 24 = 5 (A5, decision 0003); tracking divides by the root of the heads, as for all models."""
    temperatures = {
        name: parse(MatchSection, apply_preset(read_preset(name), PARAMS)["match"], "match").matching.score_scale(
            num_heads=24, num_channels=128
        )
        for name in preset_names()
        if name.startswith("analysis")
    }
    hunyuan = temperatures.pop("analysis-hunyuan-video")
    assert hunyuan == pytest.approx(5**-0.5)
    assert list(temperatures.values()) == [pytest.approx(128**-0.5)] * 4
    tracked = apply_preset(read_preset("tracking-davis-hunyuan-video"), PARAMS)["track"]
    assert parse(TrackSection, tracked, "track").matching.temperature == "root_heads"


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("tracking")])
def test_tracking_is_scored_on_the_queries_that_the_released_script_keeps(name: str) -> None:
    section = parse(TrackSection, apply_preset(read_preset(name), PARAMS)["track"], "track")
    assert section.queries == "first_frame"
    assert any("B11" in departure for departure in read_preset(name).departs)
    assert any("posterior" in departure for departure in read_preset(name).departs)


@pytest.mark.parametrize("name", [name for name in preset_names() if "guidance" not in name])
def test_presets_leave_a_report_and_the_descriptors_that_they_say_they_keep(name: str) -> None:
    preset = read_preset(name)
    assert "difftrack.pipeline report" in preset.run[-1]
    kept = [departure for departure in preset.departs if "descriptors are kept" in departure]
    if name.startswith("analysis"):
        (backbone,), chosen = preset.params["backbones"], preset.params["extract"]["analysis"]
        assert f"extract@{backbone}-analysis" in preset.run[0]
        assert f"layer {chosen['layers'][0]} at step {chosen['steps'][0]} only" in kept[0]


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
    assert sum(within) / 5 == pytest.approx(average, abs=0.1)  # all of them rounded to one decimal


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
    assert "out/c/metrics.json does not exist yet" in str(absent)
    assert "has no mean lucas d" in str(unknown)
    assert "no stage measures it" in str(unmeasured)


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
    assert "has no mean tracker d: the truth of every clip is pseudo-truth from cotracker3" in str(tracked)
    assert str(matched) == (
        "average: ours 50 (the truth of every clip is pseudo-truth from cotracker3), published 50 (table 1)"
    )


def test_a_prompt_file_of_any_name_is_one_word_of_a_command() -> None:
    preset = Preset(about="", script="", run=("python -m x prompts=${guide.prompts} -- samples=out",), params={})
    name = "my prompts (new); touch $HOME 'x'.txt"
    (command,) = commands(preset, {"guide": {"prompts": name}})
    assert shlex.split(command) == ["python", "-m", "x", f"prompts={name}", "--", "samples=out"]


# The table of flags

RELEASED = TOP / "docs" / "released.md"


def flag_rows() -> list[tuple[str, str, str]]:
    """(script's preset kind, flags, their counterparts here) of every row."""
    kinds = {
        "analyze_generation.py": "analysis",
        "evaluate_tapvid.py": "tracking-davis",
        "motion_guidance.py": "guidance",
    }
    rows, kind = [], ""
    for line in RELEASED.read_text().splitlines():
        if line.startswith("## "):
            kind = kinds[line.removeprefix("## ").split(",")[0]]
        if line.startswith("| `--"):
            flags, here, _ = (
                (cell.strip() for cell in line.strip("|").split(" | ")[:3])
                if line.count(" | ") >= 2
                else (
                    *(cell.strip() for cell in line.strip("|").split(" | ")),
                    "",
                )
            )
            rows.append((kind, flags, here))
    return rows


@pytest.mark.parametrize(("kind", "flags", "here"), flag_rows(), ids=lambda value: str(value)[:32])
def test_every_flag_is_a_key_that_takes_the_value_shown_or_an_option(kind: str, flags: str, here: str) -> None:
    assignments = [text for text in re.findall(r"`([^`]+)`", here) if re.fullmatch(r"[a-z_.0-9-]+=.*", text)]
    names = ("cogvideox-2b-i2v",) if "i2v" in here else ("cogvideox-2b",)
    for name in names:
        overrides = read_overrides(assignments)
        merged = apply_preset(read_preset(f"{kind}-{name}"), PARAMS, overrides)
        configuration_from(merged, file="the table")
    options = {option for command in ("--work", "--first") for option in [command] if command in here}
    assert assignments or options or here.startswith(("the preset", "always")), flags


@pytest.mark.parametrize("name", preset_names())
def test_every_flag_of_a_presets_script_stands_in_the_table(name: str) -> None:
    known = {flag for _, flags, _ in flag_rows() for flag in re.findall(r"--\w+", flags)}
    assert set(re.findall(r"--\w+", read_preset(name).script)) <= known


def documented_commands() -> dict[str, list[str]]:
    """Kind -> words of the command that the page shows for it."""
    found = re.findall(r"^difftrack preset (.+)$", RELEASED.read_text(), re.MULTILINE)
    return {words.split("-")[0]: shlex.split(words) for words in found}


# A folder of its own


@pytest.mark.parametrize(
    ("assignment", "named", "dry"),
    [
        ("track.layer=17", "unknown key track.layer", ()),
        ("foo.bar=1", "unknown section foo", ("--dry-run",)),
        ("synthesize=3", "synthesize is 3", ("--dry-run",)),
        ("paths.clips=3", "paths.clips is 3", ()),
        ("backbones=null", "backbones is empty", ("--dry-run",)),
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
    """A folder that looks like the project: code, data, results."""
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
    for _ in range(2):  # unchanged when it is opened again
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
    with pytest.raises(PresetError, match=r"contains no dvc\.yaml"):
        open_workspace(work, tmp_path, preset, params)


def test_overrides_win_over_the_preset_and_merge() -> None:
    overrides = read_overrides(["backbones.b={path: x}", "extract.analysis.steps=[3]", "extract.max_bytes=1.0e+6"])
    assert overrides["extract"] == {"analysis": {"steps": [3]}, "max_bytes": 1e6}
    preset = Preset(about="", script="", run=(), params={"backbones": {"b": {"dtype": "bfloat16"}}})
    merged = apply_preset(preset, {"backbones": {"a": {}}, "extract": {"analysis": {"width": 7}}}, overrides)
    assert merged["backbones"] == {"b": {"dtype": "bfloat16", "path": "x"}}
    assert merged["extract"]["analysis"] == {"width": 7, "steps": [3]}
    for wrong in ("score", "=1", "score..x=1", "score={"):
        with pytest.raises(PresetError, match=r"expected section|not valid YAML"):
            read_overrides([wrong])


def test_what_a_preset_reads_and_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    preset = read_preset("analysis-cogvideox-5b-i2v")
    problems = missing_inputs(preset, apply_preset(preset, PARAMS), tmp_path)
    assert [problem.split(" is ")[0] for problem in problems] == [
        "synthesize.generated.prompts",
        "synthesize.generated.images",
        "annotate.published",
    ]
    assert "--set annotate.published=PATH" in problems[-1]
    publish(tmp_path / "data" / "released" / "dataset")
    assert missing_inputs(preset, apply_preset(preset, PARAMS), tmp_path) == []


MODELS = {"cogvideox_t2v_2b": 2, "cogvideox_t2v_5b": 2, "cogvideox_i2v_2b": 2, "cogvideox_i2v_5b": 2, "hunyuan_t2v": 1}
"""Folders of the published data set, and how many clips of each are made here."""


def publish(dataset: Path) -> None:
    """The published layout: a folder per model and set, numbered tracks, and pictures only for image to video."""
    for model, count in MODELS.items():
        for video_mode, num_points in (("fg", 400), ("bg", 100)):
            folder = dataset / model / video_mode
            for kind in ("tracks", "visibility", *(["image"] if "i2v" in model else [])):
                (folder / kind).mkdir(parents=True)
            (folder / "prompt.txt").write_text("".join(f"{video_mode} prompt {number}\n" for number in range(count)))
            for number in range(count):
                np.save(folder / "tracks" / f"{number:03d}.npy", np.zeros((1, 49, num_points, 2), np.float32))
                np.save(folder / "visibility" / f"{number:03d}.npy", np.ones((1, 49, num_points), bool))
                if "i2v" in model:
                    write_image(folder / "image" / f"{number:03d}.png", np.full((48, 72, 3), number, np.uint8))
    (dataset / "cag_prompts.txt").write_text("a red disc moves\n")


def test_every_file_that_a_preset_names_is_where_the_published_data_set_has_it(tmp_path: Path) -> None:
    publish(tmp_path / "data" / "released" / "dataset")
    (tmp_path / "data" / "tapvid_davis").mkdir()
    (tmp_path / "data" / "tapvid_davis" / "tapvid_davis.pkl").touch()
    (tmp_path / "data" / "tapvid_kinetics").mkdir()
    for name in preset_names():
        preset = read_preset(name)
        params = apply_preset(preset, PARAMS)
        assert missing_inputs(preset, params, tmp_path) == [], name
        if name.startswith("analysis"):
            generated, of_model = params["synthesize"]["generated"], re.search(r"--model (\w+)", preset.script)
            assert of_model is not None
            assert Path(generated["prompts"]).parts[-3:] == (of_model[1], "fg", "prompt.txt")
            prompts = read_prompts(tmp_path / generated["prompts"])
            assert len(prompts) == MODELS[of_model[1]]
            for number, _ in prompts:
                tracks = import_published(tmp_path / params["annotate"]["published"], f"{number:03d}")
                assert (tracks.num_frames, tracks.num_points) == (generated["num_frames"], 400)
                if "i2v" in of_model[1]:
                    image = read_image(tmp_path / generated["images"] / f"{number:03d}.png")
                    assert image[0, 0].tolist() == [number] * 3
            assert ("images" in generated) == ("i2v" in of_model[1])


# One command each, on a tiny folder instead of the checkpoint


TINY = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("tiny"))


def tiny_words(name: str, tiny: Path, changes: dict[str, Any]) -> list[str]:
    """Assignments that replace the weights by a tiny folder, and change the params that do not suit it."""
    model = json.dumps({"path": str(tiny), "dtype": "float32", "device": "cpu"})
    backbone = name.split("-", 1)[1].removeprefix("davis-")
    overrides = {f"backbones.{backbone}": model, **{key: json.dumps(value) for key, value in changes.items()}}
    return [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]


def run(name: str, *words: object, tiny: Path, work: Path, remarks: bool = False, **changes: Any) -> str:
    """The output of `difftrack preset` with a tiny folder as weights; `remarks` adds what it writes to stderr."""
    assignments = tiny_words(name, tiny, changes)
    command = [str(word) for word in ("preset", name, "--work", work, *words, *assignments)]
    if "--dry-run" in words:  # starts no process, whose output would not be captured
        with chdir(TOP):
            result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        return result.stdout + (result.stderr if remarks else "")
    interpreter = [python(), "-c", "from difftrack.cli import app; app()"]
    done = subprocess.run([*interpreter, *command], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + (done.stderr if remarks else "")


def stand_in(folder: Path) -> str:
    """A program that is called like VBench; it finds 0.25 in the guided videos, which come first, else 0.5."""
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
    name, *words = documented_commands()["guidance"]
    out = run(name, "--first", 1, *words, tiny=tiny, work=tmp_path / "work", guide=section)
    assert out.startswith("$ python -m difftrack.pipeline guide prompts=prompts.txt -- samples=data/samples")
    samples = tmp_path / "work" / "data" / "samples"
    assert [folder.name for folder in samples.iterdir() if folder.is_dir()] == ["000"]
    assert (samples / "000" / "side_by_side.mp4").exists()
    assert "ours - (data/scores/vbench.json does not exist yet), published 0.9313 (table 2 by VBench)" in out
    scores = tmp_path / "work" / "data" / "scores" / "vbench.json"
    result = CliRunner().invoke(app, ["vbench", str(samples), "--out", str(scores), "--executable", stand_in(tmp_path)])
    assert result.exit_code == 0, result.stderr
    again = run("guidance-cogvideox-2b", "--dry-run", tiny=tiny, work=tmp_path / "work", guide=section)
    assert "dynamic degree, guided (plain 0.7917): ours 0.25, published 0.8235" in again
    assert (TOP / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_the_analysis_command_runs_and_leaves_numbers_pictures_and_trajectories(tiny: Path, tmp_path: Path) -> None:
    """On the published layout, tracks are imported; half of the points are never visible, and still count (B3)."""
    released, shape = tmp_path / "released", (1, NUM_FRAMES, 16, 2)
    for kind in ("tracks", "visibility"):
        (released / kind).mkdir(parents=True)
    (released / "prompt.txt").write_text("a red disc moves\n")
    places = np.random.default_rng(0).uniform(2, 36, (1, 1, 16, 2)).astype(np.float32)
    np.save(released / "tracks" / "000.npy", np.broadcast_to(places, shape))
    visible = np.zeros(shape[:-1], bool)
    visible[..., :8] = True
    np.save(released / "visibility" / "000.npy", visible)
    choices: dict[str, Any] = {
        "synthesize.generated": {**TINY, "prompts": str(released / "prompt.txt"), "num_frames": NUM_FRAMES},
        "annotate": {"published": str(released), "published_size": [HEIGHT, WIDTH]},
        "extract.analysis": {**TINY, "num_frames": NUM_FRAMES, "steps": [3], "layers": [2]},
        "report": {"layers": [2], "steps": [3], "token_positions": [[1, 2], [3, 5]]},
    }
    name, *words = documented_commands()["analysis"]
    work = tmp_path / "work"
    out = run(name, "--first", 1, *words, tiny=tiny, work=work, **choices)
    accuracy = json.loads((work / "data/scores/cogvideox-2b/summary.json").read_text())["matching_accuracy"]["value"]
    *_, layers, percent = out.splitlines()
    assert layers.endswith("published 13, 17, 21 (appendix D)")
    assert "ours 0, " in layers or "ours 1, " in layers  # three of the four layers
    truth = "the truth of every clip is pseudo-truth from cotracker3"
    assert f"ours {100 * accuracy:g} ({truth}), published 63.5" in percent
    cells = json.loads((work / "data/scores/cogvideox-2b/scores.json").read_text())
    labels = cells["groups"]["all"]["labels"]
    assert (labels["step"], labels["layer"]) == ([0, 1, 2, 3], [0, 1, 2, 3])  # the whole map, not what is extracted
    with np.load(work / "data/tracks/generated-000.npz") as tracks:
        assert tracks["visible"].shape[1] == 16
    drawn = {file.name for folder in ("strips", "videos") for file in (work / "data/report" / folder).iterdir()}
    assert {"cogvideox-2b-generated-000-feature-point1-layer2-step3.png"} < drawn
    assert {"cogvideox-2b-generated-000-query_key-layer2-step3.mp4"} < drawn
    again = run(name, "--first", 1, *words, tiny=tiny, work=work, **choices)
    assert "Running stage" not in again
    assert again.splitlines()[-2:] == [layers, percent]
    plan = CliRunner().invoke(app, ["preset", name, "--plan", "--first", "1", *words, *tiny_words(name, tiny, choices)])
    assert [line.split()[0] for line in plan.stdout.splitlines()[1:]][:4] == [
        "synthesize",
        "annotate",
        "extract",
        "survey",
    ]


@pytest.mark.slow
def test_the_command_on_real_clips_leaves_out_the_short_ones_and_scores_the_others(tiny: Path, tmp_path: Path) -> None:
    write_davis(tmp_path / "davis.pkl", {"long": NUM_FRAMES, "short": NUM_FRAMES - 1})
    choices: dict[str, Any] = {
        "synthesize.folder.path": str(tmp_path / "davis.pkl"),
        "extract.analysis": {**TINY, "num_frames": NUM_FRAMES, "steps": [3], "layers": [2]},
    }
    name, *words = documented_commands()["real"]
    out = run(name, *words, tiny=tiny, work=tmp_path / "work", remarks=True, **choices)
    assert "short has 8 frames, but extract.analysis.num_frames is 9" in out
    scores = json.loads((tmp_path / "work/data/scores/cogvideox-2b/scores.json").read_text())
    assert scores["groups"]["all"]["clips"] == ["long"]
    assert (tmp_path / "work/data/report/index.html").exists()


def write_davis(path: Path, clips: dict[str, int]) -> None:
    """A TAP-Vid file of clips in which nothing moves; the last of three points appears late."""
    entries = {}
    for name, num_frames in clips.items():
        still = np.random.default_rng(0).integers(0, 255, (1, 53, 71, 3), dtype=np.uint8).repeat(num_frames, axis=0)
        occluded = np.zeros((3, num_frames), dtype=bool)
        occluded[2, :2] = True
        points = np.broadcast_to(np.array([[[0.3, 0.5]], [[0.5, 0.4]], [[0.6, 0.7]]]), (3, num_frames, 2)).copy()
        entries[name] = {"video": still, "points": points, "occluded": occluded}
    path.write_bytes(pickle.dumps(entries))


@pytest.mark.slow
def test_the_tracking_command_runs_and_prints_both_numbers(tiny: Path, tmp_path: Path) -> None:
    write_davis(tmp_path / "davis.pkl", {"still": 14})
    choices: dict[str, Any] = {
        "synthesize.folder.path": str(tmp_path / "davis.pkl"),
        "extract.tracking": {**TINY, "steps": [3], "layers": [2]},
        "track.layers": [2],
    }
    name, *words = documented_commands()["tracking"]
    out = run(name, *words, tiny=tiny, work=tmp_path / "work", **choices)
    metrics = json.loads((tmp_path / "work/data/predictions/cogvideox-2b/metrics.json").read_text())
    ours = 100 * metrics["mean"]["tracker"]["average_pts_within_thresh"]
    queries = "over 2 queries; 1 others are left out"
    assert f"average over thresholds: ours {ours:g} ({queries}), published 46.3 (table 1)" in out
    assert out.count(", published ") == 6
    assert (tmp_path / "work/data/report/videos/cogvideox-2b-still.mp4").exists()
    several = {"steps": [2, 3], "mode": {"folder": "denoise"}, "denoise": {"first_step": 1}}  # table A.4, t = 1, 2 ...
    run(
        name,
        *words,
        tiny=tiny,
        work=tmp_path / "work",
        **choices | {"extract.tracking": {**TINY, "layers": [2], **several}},
    )
    stored = open_store(tmp_path / "work/data/descriptors/cogvideox-2b/tracking")
    spec = stored.spec(stored.groups()[0])
    assert (spec.steps, spec.fingerprint_parts["denoise"]) == ((2, 3), [1, "clean", 6.0])


def test_files_stay_small() -> None:
    folder = Path(__file__).parents[1] / "difftrack" / "presets"
    assert max(len(file.read_text().splitlines()) for file in folder.glob("*.yaml")) <= 70
