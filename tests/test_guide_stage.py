"""From a prompt file and a ranking of layers to videos, views and measures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from typer.testing import CliRunner

from difftrack.backbones import Backbone
from difftrack.cli import app
from difftrack.datasets import Clip, read_clip, write_clip
from difftrack.guidance import GuidanceError, GuideParams, read_ranking
from difftrack.media import read_image, read_video
from difftrack.params import ParamsError, parse
from difftrack.pipeline import guide

RANKING = [3, 0, 2, 1]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def params(pipeline: Path) -> dict[str, Any]:
    size = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
    section = {"backbone": "tiny", "prompts": "unused.txt", "num_best_layers": 2, "num_inference_steps": 1, **size}
    return {"backbones": {"tiny": {"path": str(pipeline)}}, "guide": section}


@pytest.fixture
def deps(tmp_path: Path) -> dict[str, Path]:
    files = {"prompts": tmp_path / "prompts.txt", "best_layers": tmp_path / "best_layers.json"}
    files["prompts"].write_text("# moving things\na red disc moves left\n\nblue square turns\n", encoding="utf-8")
    files["best_layers"].write_text(json.dumps({"layers": RANKING, "ranked_by": "harmonic_mean"}))
    return files


def count_samples(monkeypatch: pytest.MonkeyPatch, *, failing: str | None = None) -> list[str]:
    """Record the prompts that are sampled; one of them may fail."""
    sampled: list[str] = []
    generate = Backbone.generate

    def noted(self: Backbone, prompt: str, **choices: Any) -> Any:
        sampled.append(prompt)
        if prompt == failing:
            raise torch.OutOfMemoryError("out of memory")
        return generate(self, prompt, **choices)

    monkeypatch.setattr(Backbone, "generate", noted)
    return sampled


def test_stage_writes_videos_views_and_measures(params: dict[str, Any], deps: dict[str, Path], tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    guide.main(params, deps, {"samples": samples})
    for name in ("000", "001"):
        clips = {way: read_clip(samples / name, way) for way in ("plain", "guided")}
        assert not np.array_equal(clips["plain"].frames, clips["guided"].frames)
        for way, clip in clips.items():
            assert clip.frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
            for position, frame in {"first": 0, "middle": 4, "last": 8}.items():
                assert np.array_equal(read_image(samples / name / f"{way}_{position}.png"), clip.frames[frame])
            assert read_video(samples / name / f"{way}.mp4").frames.shape == clip.frames.shape
        beside = read_video(samples / name / "side_by_side.mp4").frames
        assert beside.shape == (NUM_FRAMES, HEIGHT + 16, 2 * WIDTH, 3)
    guidance = read_clip(samples / "000", "guided").details["sampling"]["guidance"]
    assert guidance["layers"] == [0, 3]
    assert guidance["variant"] == "zeroed"
    measures = json.loads((samples / "measures.json").read_text())
    with (samples / "measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["way"]) for row in rows] == [
        (name, way) for name in ("000", "001") for way in ("plain", "guided")
    ]
    motion = [float(row["motion_px"]) for row in rows]
    assert measures["means"]["guided"]["motion_px"]["mean"] == pytest.approx((motion[1] + motion[3]) / 2)
    difference = measures["differences_from_plain"]["guided"]["motion_px"]
    assert difference["mean"] == pytest.approx((motion[1] - motion[0] + motion[3] - motion[2]) / 2)
    assert difference["low"] <= difference["mean"] <= difference["high"]


def test_only_what_is_missing_damaged_or_made_otherwise_is_sampled_again(
    params: dict[str, Any], deps: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, first, second = tmp_path / "samples", "a red disc moves left", "blue square turns"
    sampled = count_samples(monkeypatch)

    def run() -> list[str]:
        sampled.clear()
        guide.main(params, deps, {"samples": samples})
        return list(sampled)

    assert run() == [first, first, second, second]
    assert run() == []
    deps["best_layers"].write_text(json.dumps({"layers": [*RANKING[1::-1], *RANKING[2:]], "harmonic_mean": "changed"}))
    assert run() == []  # the same two layers
    deps["best_layers"].write_text(json.dumps({"layers": RANKING[::-1]}))
    assert run() == [first, second]  # plain samples are kept
    view = samples / "000" / "plain_last.png"
    looks = view.read_bytes()
    view.unlink()  # a view is drawn from its clip again
    video = samples / "001" / "guided" / "frames.mp4"
    video.write_bytes(video.read_bytes()[:-9])
    assert run() == [second]
    assert view.read_bytes() == looks
    params["guide"]["seed"] = 43
    assert run() == [first, first, second, second]
    params["guide"]["seed"] = 42
    assert run() == []  # the earlier clips are kept aside
    assert view.read_bytes() == looks
    params["guide"]["seed"] = 43
    assert run() == []
    deps["prompts"].write_text(f"{second}\n", encoding="utf-8")
    assert run() == [second, second]
    assert [path.name for path in sorted(samples.iterdir())] == ["000", "measures.csv", "measures.json"]


def write_foreign_clips(folder: Path) -> list[Path]:
    """Clips in the folder of samples that no sampling wrote, known by their folder or their metadata."""
    frames = np.zeros((2, 16, 24, 3), dtype=np.uint8)
    ours: dict[str, Any] = {"sampling": {}}
    foreign = [
        (folder / "clips", Clip("plain", frames, 5.0, "a disc", "generated", 1, ours)),
        (folder / "07", Clip("plain", frames, 5.0, "a disc", "generated", 1, ours)),
        (folder / "007", Clip("mine", frames, 5.0, "a disc", "folder")),
        (folder / "008", Clip("mine", frames, 5.0, "a disc", "generated", 1, {})),
        (folder / "009", Clip("plain", frames, 5.0, "a disc", "generated", 1, ours)),
    ]
    for parent, clip in foreign:
        write_clip(parent, clip)
    (folder / "009" / "damaged").mkdir()
    (folder / "009" / "damaged" / "clip.json").write_text("[")
    return [parent / clip.name / "clip.json" for parent, clip in foreign]


def test_the_stage_removes_samples_of_prompts_that_are_gone_and_nothing_else(
    params: dict[str, Any], deps: dict[str, Path], tmp_path: Path
) -> None:
    samples = tmp_path / "samples"
    foreign = write_foreign_clips(samples)
    guide.main(params, deps, {"samples": samples})
    assert (samples / "001").exists()
    deps["prompts"].write_text("a red disc moves left\n", encoding="utf-8")
    guide.main(params, deps, {"samples": samples})
    assert not (samples / "001").exists()
    assert [file for file in foreign if not file.exists()] == []


def test_a_prompt_that_fails_is_named_at_the_end_and_loses_no_other(
    params: dict[str, Any], deps: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_samples(monkeypatch, failing="a red disc moves left")
    with pytest.raises(
        SystemExit,
        match=r"(?s)1 of 2 prompts failed.*000 'a red disc moves left': memory has run out \(out of memory\); set back",
    ):
        guide.main(params, deps, {"samples": tmp_path / "samples"})
    assert read_clip(tmp_path / "samples" / "001", "guided").prompt == "blue square turns"
    clips = json.loads((tmp_path / "samples" / "measures.json").read_text())["clips"]
    assert {clip["name"] for clip in clips} == {"001"}


def test_guidance_alone_needs_no_comparison_and_named_layers_no_ranking(
    params: dict[str, Any], deps: dict[str, Path], tmp_path: Path
) -> None:
    params["guide"] |= {"compare": False, "layers": [1], "scale": 0.5, "variant": "masked"}
    guide.main(params, {"prompts": deps["prompts"]}, {"samples": tmp_path / "samples"})
    names = {path.name for path in (tmp_path / "samples" / "000").iterdir()}
    assert names == {"guided", "guided.mp4", "guided_first.png", "guided_middle.png", "guided_last.png"}
    guidance = read_clip(tmp_path / "samples" / "000", "guided").details["sampling"]["guidance"]
    assert (guidance["layers"], guidance["scale"], guidance["variant"]) == ([1], 0.5, "masked")


def test_prompts_that_are_no_utf8_are_refused_before_anything_is_sampled(
    params: dict[str, Any], deps: dict[str, Path], tmp_path: Path
) -> None:
    deps["prompts"].write_bytes("ein rotes Rad fährt\n".encode("latin-1"))
    with pytest.raises(ValueError, match="line 1, is not UTF-8"):
        guide.main(params, deps, {"samples": tmp_path / "samples"})
    assert not (tmp_path / "samples").exists()


def test_verb_does_what_the_stage_does(params: dict[str, Any], deps: dict[str, Path], tmp_path: Path) -> None:
    scores = tmp_path / "data" / "scores" / "tiny"
    scores.mkdir(parents=True)
    deps["best_layers"].rename(scores / "best_layers.json")
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    words = ["guide", str(deps["prompts"]), "--out", str(tmp_path / "out"), "--params", str(file)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in ("000", "001")]
    assert read_clip(tmp_path / "out" / "001", "guided").details["sampling"]["guidance"]["layers"] == [0, 3]


def test_verb_finds_the_ranking_under_the_scores_of_the_params_and_removes_nothing(
    params: dict[str, Any], deps: dict[str, Path], tmp_path: Path
) -> None:
    scores = tmp_path / "elsewhere" / "tiny"
    scores.mkdir(parents=True)
    deps["best_layers"].rename(scores / "best_layers.json")
    file, out = tmp_path / "params.yaml", tmp_path / "data"
    file.write_text(yaml.safe_dump({**params, "paths": {"scores": "elsewhere"}}))
    foreign = write_foreign_clips(out)
    words = ["guide", str(deps["prompts"]), "--out", str(out), "--params", str(file)]
    for prompts in ("a red disc moves left\nblue square turns\n", "a red disc moves left\n"):
        deps["prompts"].write_text(prompts, encoding="utf-8")
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    assert [file for file in foreign if not file.exists()] == []
    assert read_clip(out / "001", "guided").prompt == "blue square turns"
    assert read_clip(out / "000", "guided").details["sampling"]["guidance"]["layers"] == [0, 3]


def test_params_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    def section(**values: Any) -> GuideParams:
        return parse(GuideParams, {"backbone": "tiny", "prompts": "prompts.txt", **values}, "guide")

    assert section(layers=[2, 5]).layers == (2, 5)
    for values, complaint in (
        ({"layers": "worst"}, "guide.layers"),
        ({"layers": [1, 1]}, "each once"),
        ({"variant": "halved"}, "zeroed"),
        ({"from_step": 50}, "last step is 49"),
        ({"from_step": 5, "until_step": 5}, r"until_step \(\d\) must be greater than from_step"),
        ({"num_best_layers": 0}, "at least 1"),
        ({"fps": 0}, "positive"),
    ):
        with pytest.raises(ParamsError, match=complaint):
            section(**values)
    with pytest.raises(GuidanceError, match="run the score stage"):
        section().ways([1, 2])
    with pytest.raises(GuidanceError, match="the score stage writes it"):
        read_ranking(tmp_path / "best_layers.json")
