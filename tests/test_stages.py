"""Stages one after another on a tiny pipeline: from params to a page, and what a change runs again."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox

from difftrack.backbones import Backbone
from difftrack.backbones._capturing import CapturingBackbone
from difftrack.datasets import Clip, DatasetError, clip_names, describe_clip, read_clip
from difftrack.extraction import GroupShelf
from difftrack.media import write_image, write_video
from difftrack.pipeline import _stage as _run
from difftrack.pipeline import annotate, extract, match, report, score, survey, synthesize, track, track_live
from difftrack.provenance import MadeBy
from difftrack.store import GroupWriter, read_manifest, result_groups

# The tiny text encoder reads fewer tokens than the renderer's prompts have, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:tiny reads:UserWarning")

NUM_FRAMES = 9
BACKBONE = "tiny"


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = save_cogvideox(tmp_path_factory.mktemp("weights"))
    sampling = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
    view = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 5}
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a red disc moves\n")
    return {
        "backbones": {BACKBONE: {"path": str(folder), "device": "cpu"}},
        "synthesize": {
            "sources": ["rendered", "generated"],
            "rendered": {"easy_object": 1, "hard_scene": 1, "seed": 3, **sampling},
            "generated": {"backbone": BACKBONE, "prompts": str(prompts), "num_inference_steps": 5, **sampling},
        },
        "annotate": {"object_grid": 5, "scene_grid": 3},
        "extract": {
            "analysis": {
                **view,
                "num_frames": NUM_FRAMES,
                "steps": [0, 4],
                "mode": {"rendered": "add_noise", "generated": "generate", "folder": "add_noise"},
            },
            "tracking": {**view, "steps": [4], "layers": [2, 3], "chunks": {"chunk_len": 5}},
        },
        "match": {},
        "score": {"threshold_px": 8},
        "track": {"layers": [3]},
        "report": {"max_videos": 2},
    }


@pytest.fixture(scope="module")
def project(params: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    everything = {**params, "item": {}}
    clips = {"clips": root / "clips"}
    synthesize.main(everything, {}, clips)
    annotate.main(params["annotate"], clips, {"tracks": root / "tracks"})
    inputs = {**clips, "tracks": root / "tracks"}
    stores = {view: root / "descriptors" / BACKBONE / view for view in ("analysis", "tracking")}
    for view, store in stores.items():
        extract.main({**params, "item": {"backbone": BACKBONE, "view": view}}, clips, {"descriptors": store})
    matches = {"matches": root / "matches" / BACKBONE}
    match.main(params["match"], {**inputs, "descriptors": stores["analysis"]}, matches)
    of_scores = {name: root / "scores" / BACKBONE / file for name, file in SCORE_FILES.items()}
    score.main(params["score"], {**inputs, **matches}, of_scores)
    predictions = root / "predictions" / BACKBONE
    track.main(params["track"], {**inputs, "descriptors": stores["tracking"]}, {"predictions": predictions})
    folders = {name: root / name for name in ("descriptors", "scores", "predictions")}
    report.main(everything, {**inputs, **folders}, {"report": root / "report"})
    return root


SCORE_FILES = {
    "scores": "scores.json",
    "summary": "summary.json",
    "table": "scores.csv",
    "best_layers": "best_layers.json",
}


def test_from_params_to_a_page(project: Path) -> None:
    assert clip_names(project / "clips") == ["generated-000", "rendered-easy-object-003", "rendered-hard-scene-003"]
    page = (project / "report" / "index.html").read_text()
    assert all(name in page for name in clip_names(project / "clips"))
    assert json.loads((project / "report" / "headlines.json").read_text())


def test_tracking_while_the_model_runs_gives_the_bits_of_tracking_from_the_store(
    params: dict[str, Any], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, live = project / "predictions" / BACKBONE, tmp_path / "live"
    deps = {"clips": project / "clips", "tracks": project / "tracks"}
    asked = {**params, "item": {"backbone": BACKBONE}}
    track_live.main(asked, deps, {"predictions": live})
    for file in stored.glob("*.npz"):
        with np.load(file) as expected, np.load(live / file.name) as found:
            assert set(found.files) == {*expected.files, "identity"}
            for name in expected.files:
                assert found[name].tobytes() == expected[name].tobytes(), (file.name, name)
    for name in ("metrics.json", "metrics.csv", "summary.json"):
        assert (live / name).read_bytes() == (stored / name).read_bytes()
    runs: list[str] = []
    capture = CapturingBackbone.capture_into
    monkeypatch.setattr(CapturingBackbone, "capture_into", lambda *a, **k: (runs.append("run"), capture(*a, **k))[1])
    track_live.main(asked, deps, {"predictions": live})
    assert runs == []  # existing results are reused
    track_live.main({**asked, "track": {**params["track"], "smoothing_radius": 0}}, deps, {"predictions": live})
    assert len(runs) == sum(
        len(groups) for groups in read_manifest(project / "descriptors" / BACKBONE / "tracking").groups.values()
    )


def test_tracking_while_the_model_runs_leaves_out_by_rule_and_names_what_fails(
    params: dict[str, Any], project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tracks").mkdir()
    for file in sorted((project / "tracks").glob("*.npz"))[1:]:
        shutil.copy(file, tmp_path / "tracks" / file.name)
    deps = {"clips": project / "clips", "tracks": tmp_path / "tracks"}
    asked = {**params, "item": {"backbone": BACKBONE}}
    with pytest.raises(SystemExit, match=r"track_live: 1 of 3 clips failed\n  generated-000: .*tracks"):
        track_live.main(asked, deps, {"predictions": tmp_path / "live"})
    assert len(json.loads((tmp_path / "live" / "metrics.json").read_text())["clips"]) == 2
    view = {**params["extract"]["tracking"], "chunks": {"schedule": "released", "chunk_len": 10}}
    asked["extract"] = {**params["extract"], "tracking": view}
    track_live.main(asked, deps, {"predictions": tmp_path / "none"})
    assert "released schedule needs at least chunk_len = 10" in capsys.readouterr().err


def test_the_page_says_what_every_view_mode_and_stage_was_made_with(project: Path) -> None:
    page = (project / "report" / "index.html").read_text().replace("<wbr>", "")  # where a long key may break
    modes = ("analysis, add_noise", "analysis, generate", "tracking, ")
    wanted = [f"{mode}.noise_seed" for mode in modes[:2]] + ["tracks.motion_cost", "scores.convention"]
    assert not [name for name in wanted if name not in page]
    assert modes[2] in page


def test_an_object_clip_brings_the_mask_that_a_scene_clip_has_no_use_for(project: Path) -> None:
    assert read_clip(project / "clips", "rendered-easy-object-003").object_mask is not None
    assert read_clip(project / "clips", "rendered-hard-scene-003").object_mask is None


def test_the_best_layers_are_layers_that_were_kept(project: Path, params: dict[str, Any]) -> None:
    best = json.loads((project / "scores" / BACKBONE / "best_layers.json").read_text())
    assert sorted(best["layers"]) == [0, 1, 2, 3]


def test_synthesizing_again_gives_the_same_bytes_and_samples_nothing_again(
    project: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in (project / "clips").rglob("*") if file.is_file()}
    monkeypatch.setattr(synthesize, "_sample", lambda *_: pytest.fail("sampled again"))
    synthesize.main({**params, "item": {}}, {}, {"clips": project / "clips"})
    assert before == {file: file.read_bytes() for file in (project / "clips").rglob("*") if file.is_file()}


def test_a_clip_that_is_no_longer_wanted_goes(params: dict[str, Any], tmp_path: Path) -> None:
    rendered = {**params["synthesize"], "sources": ["rendered"]}
    (tmp_path / "clips" / "rendered-easy-object-999").mkdir(parents=True)
    synthesize.main({**params, "synthesize": rendered}, {}, {"clips": tmp_path / "clips"})
    assert clip_names(tmp_path / "clips") == ["rendered-easy-object-003", "rendered-hard-scene-003"]


def test_a_folder_that_holds_no_clip_is_not_removed_and_nothing_is_written_beside_it(
    params: dict[str, Any], tmp_path: Path
) -> None:
    rendered = {**params["synthesize"], "sources": ["rendered"]}
    mine = tmp_path / "clips" / "holiday" / "beach.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    (tmp_path / "clips" / ".DS_Store").touch()
    with pytest.raises(DatasetError, match=r"holiday is not a clip; move it elsewhere, or set paths\.clips"):
        synthesize.main({**params, "synthesize": rendered}, {}, {"clips": tmp_path / "clips"})
    assert mine.read_bytes() == b"mine"
    assert clip_names(tmp_path / "clips") == []
    mine.unlink()
    synthesize.main({**params, "synthesize": rendered}, {}, {"clips": tmp_path / "clips"})
    assert len(clip_names(tmp_path / "clips")) == 2


def test_adding_a_clip_extracts_that_clip_only(
    project: Path, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_of(project, tmp_path)
    more = {**params["synthesize"], "rendered": {**params["synthesize"]["rendered"], "easy_object": 2}}
    everything = {**params, "synthesize": more, "item": {"backbone": BACKBONE, "view": "analysis"}}
    clips, store = {"clips": project / "clips"}, project / "descriptors" / BACKBONE / "analysis"
    synthesize.main(everything, {}, clips)
    written: list[str] = []
    wanted = GroupShelf.wanted

    def noted(shelf: GroupShelf, writer: GroupWriter) -> list[tuple[int, int]]:
        units = wanted(shelf, writer)
        written.extend([writer.group] * len(units))
        return units

    monkeypatch.setattr(GroupShelf, "wanted", noted)
    extract.main(everything, clips, {"descriptors": store})
    assert set(written) == {"rendered-easy-object-004"}
    assert len(written) == 2 * 4


def test_clips_that_are_not_asked_for_lie_aside_and_going_back_extracts_nothing(
    project: Path, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []
    capture = CapturingBackbone.capture_into
    monkeypatch.setattr(
        CapturingBackbone,
        "capture_into",
        lambda self, *args, **given: (forwards.append(1), capture(self, *args, **given)),
    )
    shutil.copytree(project / "clips", tmp_path / "clips")
    shutil.copytree(project / "descriptors", tmp_path / "descriptors")
    kept, stores = {"kept": tmp_path / "kept"}, tmp_path / "descriptors" / BACKBONE

    def run(synthesize_section: dict[str, Any]) -> dict[Path, bytes]:
        forwards.clear()
        synthesize.main({**params, "synthesize": synthesize_section}, {}, {"clips": tmp_path / "clips", **kept})
        for view in ("analysis", "tracking"):
            item = {"item": {"backbone": BACKBONE, "view": view}}
            extract.main({**params, **item}, {"clips": tmp_path / "clips"}, {"descriptors": stores / view, **kept})
        return files_below(tmp_path / "clips") | files_below(tmp_path / "descriptors")

    before = run(params["synthesize"])
    assert not forwards
    videos = folder_of_videos(tmp_path / "videos", "mine", num_frames=NUM_FRAMES)["synthesize"]
    away = run(videos)
    assert clip_names(tmp_path / "clips") == ["mine"]
    assert not [file for file in away if "generated" in str(file) or "rendered" in str(file)]
    assert forwards
    assert run(params["synthesize"]) == before
    assert not forwards
    assert run(videos) == away
    assert not forwards


def test_a_source_without_its_section_is_refused_before_anything_is_written(
    params: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="sources names folder, but folder is null"):
        synthesize.main({**params, "synthesize": {"sources": ["folder"]}}, {}, {"clips": tmp_path / "clips"})
    assert not (tmp_path / "clips").exists()


@Backbone.register
class Sampler:
    """A stand-in for a backbone that counts its calls."""

    fingerprint = "f"
    remarks = ()

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.dtype = "float32"
        self.maker = MadeBy(code={"backbones": "1", "media": "3"}, versions={"diffusers": "0.42.1"})

    def made_by(self, *_: str) -> MadeBy:
        return self.maker

    def loading_choices(self) -> dict[str, object]:
        return {"dtype": self.dtype}

    def generate(self, prompt: str, **given: Any) -> Any:
        self.asked.append((prompt, given))
        frames = np.full((3, 16, 16, 3), len(self.asked), dtype=np.uint8)
        return SimpleNamespace(frames=frames, trajectory=None)


@pytest.mark.parametrize("changed", ["seed", "fps", "image", "dtype", "nothing"])
def test_a_sampled_clip_is_kept_only_where_it_would_come_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    sampler = Sampler()
    monkeypatch.setattr(synthesize, "load_backbone", lambda *_, **__: sampler)
    monkeypatch.setattr(synthesize, "write_trajectory", lambda path, *_, **__: path.write_bytes(b"t"))
    (tmp_path / "prompts.txt").write_text("a dog\n")
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    write_image(tmp_path / "000.png", picture)
    generated: dict[str, Any] = {"backbone": "b", "prompts": str(tmp_path / "prompts.txt"), "images": str(tmp_path)}
    again = generated | {"seed": {"seed": 43}, "fps": {"fps": 12}}.get(changed, {})
    for section in (generated, generated, again):
        if section is again and changed == "image":
            write_image(tmp_path / "000.png", picture + 1)
        if section is again and changed == "dtype":
            sampler.dtype = "bfloat16"
        everything = {"synthesize": {"sources": ["generated"], "generated": section}, "backbones": {}}
        synthesize.main(everything, {}, {"clips": tmp_path / "clips"})
    assert len(sampler.asked) == (1 if changed == "nothing" else 2)
    clip = read_clip(tmp_path / "clips", "generated-000")
    assert (clip.seed, clip.fps) == (43 if changed == "seed" else 42, 12 if changed == "fps" else 8)
    assert sampler.asked[-1][1]["image"].max() == (changed == "image")


@pytest.fixture
def sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Sampler, Callable[..., Clip]]:
    """A sampler, and the stage that samples one clip with it."""
    sampler, clips = Sampler(), tmp_path / "clips"
    monkeypatch.setattr(synthesize, "load_backbone", lambda *_, **__: sampler)
    monkeypatch.setattr(synthesize, "write_trajectory", lambda path, *_, **__: path.write_bytes(b"t"))
    (tmp_path / "prompts.txt").write_text("a dog\n")

    def sample(*, seed: int = 42, force: bool = False, **section: Any) -> Clip:
        generated = {"backbone": "b", "prompts": str(tmp_path / "prompts.txt"), "seed": seed}
        sections = {"synthesize": {"sources": ["generated"], "generated": generated, **section}, "backbones": {}}
        synthesize.main({**sections, "force": force}, {}, {"clips": clips, "kept": tmp_path / "kept"})
        return read_clip(clips, "generated-000")

    return sampler, sample


def test_a_sampled_clip_of_other_code_or_libraries_is_sampled_again_and_the_stage_says_why(
    sampling: tuple[Sampler, Callable[..., Clip]], capsys: pytest.CaptureFixture[str]
) -> None:
    sampler, sample = sampling
    first = sample()
    assert first.details["made_by"] == sampler.maker.to_json()
    sampler.maker = MadeBy(code={"backbones": "2", "media": "3"}, versions={"diffusers": "0.43.0"})
    assert sample().frames.max() == 2
    assert "made again because of a change: code of backbones; diffusers 0.42.1 -> 0.43.0" in capsys.readouterr().out
    sample()
    assert len(sampler.asked) == 2


def test_a_sampled_clip_of_other_code_is_taken_up_where_the_params_are_enough_and_says_so(
    sampling: tuple[Sampler, Callable[..., Clip]], capsys: pytest.CaptureFixture[str]
) -> None:
    sampler, sample = sampling
    before, then = sample(), sampler.maker
    sampler.maker = MadeBy(code={"backbones": "2", "media": "3"}, versions={"diffusers": "0.42.1"})
    for _ in range(2):
        clip = sample(reuse="params")
        assert "reused because the params are equal" in capsys.readouterr().out
        assert (clip.frames == before.frames).all()
        assert (clip.details["made_by"], clip.details["reused"]) == (then.to_json(), True)
    assert len(sampler.asked) == 1
    assert "reused" not in sample().details
    assert len(sampler.asked) == 2


def test_a_clip_of_before_there_was_a_record_is_sampled_again(
    sampling: tuple[Sampler, Callable[..., Clip]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler, sample = sampling
    clip = sample()
    describe_clip(tmp_path / "clips", replace(clip, details={"sampling": clip.details["sampling"]}))
    sample(reuse="params")
    assert len(sampler.asked) == 1
    sample()
    assert len(sampler.asked) == 2
    assert "no record of the code that made it" in capsys.readouterr().out


def test_going_back_to_a_seed_samples_nothing(sampling: tuple[Sampler, Callable[..., Clip]]) -> None:
    sampler, sample = sampling
    first, second = sample(), sample(seed=43)
    for _ in range(2):
        assert (sample().frames == first.frames).all()
        assert (sample(seed=43).frames == second.frames).all()
    assert len(sampler.asked) == 2


def test_force_samples_what_is_there_again(sampling: tuple[Sampler, Callable[..., Clip]]) -> None:
    _, sample = sampling
    sample()
    assert sample(force=True).frames.max() == 2
    assert sample().frames.max() == 2


def folder_of_videos(path: Path, *names: str, num_frames: int = 3) -> dict[str, Any]:
    path.mkdir()
    for name in names:
        write_video(path / f"{name}.mp4", np.zeros((num_frames, 16, 16, 3), dtype=np.uint8), 8.0, lossless=True)
    return {"synthesize": {"sources": ["folder"], "folder": {"path": str(path)}}, "backbones": {}}


def files_below(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_video_that_became_unreadable_does_not_cost_the_clip_of_the_last_run(tmp_path: Path) -> None:
    params, clips = folder_of_videos(tmp_path / "videos", "a", "b", "c"), {"clips": tmp_path / "clips"}
    synthesize.main(params, {}, clips)
    before = files_below(tmp_path / "clips")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"damaged")
    (tmp_path / "videos" / "c.mp4").unlink()
    with pytest.raises(
        DatasetError, match=r"^1 clip cannot be used, 1 can: b\.mp4: .*add it to synthesize\.folder\.skip$"
    ):
        synthesize.main(params, {}, clips)
    assert files_below(tmp_path / "clips") == before


def test_a_video_that_is_skipped_lets_the_rest_of_the_pipeline_run(tmp_path: Path) -> None:
    params, clips = folder_of_videos(tmp_path / "videos", "a", "b"), {"clips": tmp_path / "clips"}
    synthesize.main(params, {}, clips)
    (tmp_path / "videos" / "b.mp4").write_bytes(b"damaged")
    params["synthesize"]["folder"]["skip"] = ["b.mp4"]
    synthesize.main(params, {}, clips)
    assert clip_names(tmp_path / "clips") == ["a"]


def test_skipping_what_is_not_there_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    params, clips = folder_of_videos(tmp_path / "videos", "a", "b"), {"clips": tmp_path / "clips"}
    synthesize.main(params, {}, clips)
    shutil.rmtree(tmp_path / "clips" / "a")
    before = files_below(tmp_path / "clips")
    params["synthesize"]["folder"]["skip"] = ["c"]
    with pytest.raises(DatasetError, match=r"skip names c, but there is no such clip; available: a, a\.mp4, b"):
        synthesize.main(params, {}, clips)
    assert files_below(tmp_path / "clips") == before


# What is missing


def copy_of(project: Path, folder: Path) -> Path:
    """A copy of a project that may be damaged."""
    return shutil.copytree(project, folder / "copy", ignore=shutil.ignore_patterns("report"))


def rerun(stage: str, root: Path, params: dict[str, Any]) -> None:
    """Run one stage on a project's files."""
    inputs = {"clips": root / "clips", "tracks": root / "tracks"}
    if stage == "annotate":
        annotate.main(params["annotate"], inputs, {"tracks": root / "tracks"})
    elif stage == "match":
        deps = inputs | {"descriptors": root / "descriptors" / BACKBONE / "analysis"}
        match.main(params["match"], deps, {"matches": root / "matches" / BACKBONE})
    elif stage == "score":
        deps = inputs | {"matches": root / "matches" / BACKBONE}
        score.main(
            params["score"], deps, {name: root / "scores" / BACKBONE / file for name, file in SCORE_FILES.items()}
        )
    elif stage == "track":
        deps = inputs | {"descriptors": root / "descriptors" / BACKBONE / "tracking"}
        track.main(params["track"], deps, {"predictions": root / "predictions" / BACKBONE})
    else:
        folders = {name: root / name for name in ("descriptors", "scores", "predictions")}
        report.main({**params, "item": {}}, inputs | folders, {"report": root / "report"})


EASY, HARD = "rendered-easy-object-003", "rendered-hard-scene-003"
LOST = {
    "annotate": (f"clips/{EASY}/clip.json", f"clips/{EASY}/frames.mp4"),
    "match": (f"descriptors/{BACKBONE}/analysis/{EASY}/zarr.json", f"tracks/{EASY}.npz"),
    "score": (f"matches/{BACKBONE}/{EASY}/zarr.json", f"tracks/{EASY}.npz", f"clips/{EASY}/clip.json"),
    "track": (f"descriptors/{BACKBONE}/tracking/{EASY}/chunk_001/zarr.json", f"tracks/{EASY}.npz"),
    "report": (
        f"predictions/{BACKBONE}/{EASY}.npz",
        f"tracks/{EASY}.npz",
        f"clips/{EASY}/clip.json",
        f"clips/{EASY}/frames.mp4",
        f"descriptors/{BACKBONE}/analysis/{EASY}/zarr.json",
    ),
}
DAMAGE: dict[str, Callable[[Path], object]] = {
    "is deleted": Path.unlink,
    "is empty": lambda path: path.write_bytes(b""),
    "is cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "is something else": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00{'x': [\xff"),
}


@pytest.mark.parametrize("damage", ["is deleted", "is empty", "is something else"])
@pytest.mark.parametrize(("stage", "file"), [(stage, file) for stage, files in LOST.items() for file in files])
def test_a_stage_names_the_clip_whose_file(
    project: Path,
    params: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    file: str,
    damage: str,
) -> None:
    """A stage names what is damaged, does the others, and exits with an error."""
    monkeypatch.setattr(report, "write_report", lambda _, footage, *__, **___: done.extend(footage.truth))
    done: list[str] = []
    root = copy_of(project, tmp_path)
    DAMAGE[damage](root / file)
    with pytest.raises(SystemExit) as raised:
        rerun(stage, root, params)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{stage}: ")
    assert len(lines) == 2 or stage == "report"
    named = [line for line in lines[1:] if EASY in line]
    assert named
    assert all(Path(file).name in line or Path(file).parent.name in line for line in named[:1])
    assert not any(line.startswith(f"  {HARD}") for line in lines)
    assert "run the" in str(raised.value)
    if stage == "report":
        assert HARD in done
    if stage == "score":
        table = json.loads((root / "scores" / BACKBONE / "scores.json").read_text())
        assert table["groups"]["all"]["clips"] == ["generated-000", HARD]
    if stage == "track":
        metrics = json.loads((root / "predictions" / BACKBONE / "metrics.json").read_text())
        assert (list(metrics["clips"]), list(metrics["failed"])) == (["generated-000", HARD], [EASY])


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        ("annotate", f"clips/{EASY}"),
        ("match", f"descriptors/{BACKBONE}/analysis/{EASY}"),
        ("score", f"matches/{BACKBONE}/{EASY}"),
        ("track", f"descriptors/{BACKBONE}/tracking/{EASY}"),
        ("track", f"descriptors/{BACKBONE}/tracking/{EASY}/chunk_001"),
    ],
)
def test_a_stage_names_the_clip_of_which_nothing_is_left(
    project: Path, params: dict[str, Any], tmp_path: Path, stage: str, folder: str
) -> None:
    root = copy_of(project, tmp_path)
    shutil.rmtree(root / folder)
    with pytest.raises(SystemExit, match=rf"{stage}: 1 of 3 clips .*failed.*\n  {EASY}: .*{EASY}"):
        rerun(stage, root, params)


def test_extract_and_survey_name_a_clip_that_cannot_be_read_and_keep_its_descriptors(
    project: Path, params: dict[str, Any], tmp_path: Path
) -> None:
    root = copy_of(project, tmp_path)
    store = root / "descriptors" / BACKBONE / "analysis"
    before = files_below(store)
    (root / "clips" / EASY / "clip.json").write_text("")
    item = {"item": {"backbone": BACKBONE, "view": "analysis"}}
    inputs = {"clips": root / "clips", "tracks": root / "tracks"}
    with pytest.raises(SystemExit, match=rf"1 of 3 clips .*failed.*\n  {EASY}: .*clip\.json: is empty; run the synth"):
        extract.main(params | item, inputs, {"descriptors": store})
    assert files_below(store) == before
    some = {"steps": [4], "layers": [3], "kinds": ["feature"]}
    with pytest.raises(SystemExit, match=rf"1 of 3 clips .*failed.*\n  {EASY}: .*clip\.json: is empty; run the synth"):
        survey.main(params | item | {"survey": some}, inputs, {"matches": root / "survey"})
    assert result_groups(root / "survey") == ["generated-000", HARD]
    assert read_manifest(root / "survey").clips == ["generated-000", EASY, HARD]


def test_a_group_of_a_clip_that_is_not_wanted_enters_no_number(
    project: Path, params: dict[str, Any], tmp_path: Path
) -> None:
    root = copy_of(project, tmp_path)
    scores = (root / "scores" / BACKBONE / "scores.json").read_bytes()
    metrics = (root / "predictions" / BACKBONE / "metrics.json").read_bytes()
    for folder in (
        "clips",
        f"matches/{BACKBONE}",
        *(f"descriptors/{BACKBONE}/{view}" for view in ("analysis", "tracking")),
    ):
        shutil.copytree(root / folder / EASY, root / folder / "stale")
    shutil.copy(root / "tracks" / f"{EASY}.npz", root / "tracks" / "stale.npz")
    for stage in ("match", "score", "track"):
        rerun(stage, root, params)
    assert (root / "scores" / BACKBONE / "scores.json").read_bytes() == scores
    assert (root / "predictions" / BACKBONE / "metrics.json").read_bytes() == metrics


def test_a_report_says_whose_scores_and_metrics_are_over_other_clips(
    project: Path, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write_report", lambda *_, **__: None)
    root = copy_of(project, tmp_path)
    for file, keys in (
        (f"scores/{BACKBONE}/scores.json", ("groups", "all")),
        (f"predictions/{BACKBONE}/metrics.json", ()),
    ):
        content = json.loads((root / file).read_text())
        inner = content
        for key in keys:
            inner = inner[key]
        clips = inner["clips"]
        inner["clips"] = [name for name in clips if name != EASY] if isinstance(clips, list) else {HARD: clips[HARD]}
        (root / file).write_text(json.dumps(content))
    with pytest.raises(SystemExit) as raised:
        rerun("report", root, params)
    assert f"tiny: scores.json does not contain {EASY}; run the score stage again" in str(raised.value)
    assert f"tiny: metrics.json does not contain generated-000, {EASY}; run the track stage again" in str(raised.value)


@pytest.mark.parametrize("damage", ["is empty", "is cut", "is something else"])
@pytest.mark.parametrize("file", [f"scores/{BACKBONE}/scores.json", f"predictions/{BACKBONE}/metrics.json"])
def test_results_that_cannot_be_read_are_one_line(
    project: Path, params: dict[str, Any], tmp_path: Path, file: str, damage: str
) -> None:
    root = copy_of(project, tmp_path)
    DAMAGE[damage](root / file)
    with pytest.raises(ValueError, match=rf"{Path(file).name}: is .*run the (score|track) stage again$"):
        rerun("report", root, params)


def test_a_clip_folder_without_manifest_is_read_and_what_is_assumed_is_said(
    project: Path, params: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_of(project, tmp_path)
    (root / "clips" / "manifest.json").unlink()
    before = files_below(root / "tracks")
    rerun("annotate", root, params)
    assert "clips contains no manifest.json: the 3 clips found there are assumed" in capsys.readouterr().err
    assert files_below(root / "tracks") == before


def test_a_prompt_that_cannot_be_sampled_is_named_after_the_others_and_is_not_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesize, "load_backbone", lambda *_, **__: Sampler())
    monkeypatch.setattr(synthesize, "write_trajectory", lambda path, *_, **__: path.write_bytes(b"t"))
    (tmp_path / "prompts.txt").write_text("a dog\na cat\n")
    write_image(tmp_path / "001.png", np.zeros((16, 16, 3), dtype=np.uint8))
    generated = {"backbone": "b", "prompts": str(tmp_path / "prompts.txt"), "images": str(tmp_path)}
    everything = {"synthesize": {"sources": ["generated"], "generated": generated}, "backbones": {}}
    with pytest.raises(DatasetError, match=r"1 clip cannot be used, 1 can: generated-000: .*000\.png"):
        synthesize.main(everything, {}, {"clips": tmp_path / "clips"})
    assert clip_names(tmp_path / "clips") == ["generated-001"]


# The runner


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    (tmp_path / "params.yaml").write_text("match: {radius: 3}\nbackbones: {tiny: null}\n")

    def give(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["stage", *arguments])

    with chdir(tmp_path):
        yield give


def test_a_stage_gets_its_section_and_its_paths(words: Callable[..., None]) -> None:
    calls: list[Any] = []
    words("tracks=a/b", "clips=c", "--", "matches=d")
    _run.run("match", lambda *given: calls.append(given))
    assert calls == [({"radius": 3}, {"tracks": Path("a/b"), "clips": Path("c")}, {"matches": Path("d")})]


def test_a_matrix_cell_arrives_as_an_item(words: Callable[..., None]) -> None:
    calls: list[Any] = []
    words("item.view=analysis", "--", "matches=d")
    _run.run("match", lambda *given: calls.append(given), whole=True)
    sections = {"match": {"radius": 3}, "backbones": {"tiny": None}}
    assert calls[0][0] == {**sections, "item": {"view": "analysis"}, "force": False}
    assert calls[0][1] == {}


def test_a_stage_locks_what_it_alone_writes_and_not_what_several_keep_things_in(words: Callable[..., None]) -> None:
    locked: list[str] = []
    words("--", "matches=d", "kept=k")
    _run.run("match", lambda *_: locked.extend(path.name for path in Path(".locks").glob("*.lock")))
    assert locked == ["d.lock"]


def test_an_expected_error_is_one_line_and_an_unexpected_one_is_not_hidden(words: Callable[..., None]) -> None:
    words("--", "matches=d")

    def refuse(*_: Any) -> None:
        raise ValueError("radius is 3; it must be even")

    def break_down(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(SystemExit, match="match: radius is 3; it must be even"):
        _run.run("match", refuse)
    with pytest.raises(ZeroDivisionError):
        _run.run("match", break_down)


@pytest.mark.parametrize(
    ("command", "forced"),
    [
        ("/venv/bin/python /venv/bin/dvc repro -f", True),
        ("python -m dvc repro extract --force", True),
        ("dvc exp run -S synthesize.sources=[folder] -sf", True),
        ("dvc repro -s extract", False),
        ("dvc push --force", False),
        ("python -m pytest -f repro", False),
    ],
)
def test_force_of_the_command_above_is_seen(command: str, forced: bool) -> None:
    assert _run.asks_for_force(command.split()) is forced


def test_the_environment_decides_about_force(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, forced in {"1": True, "0": False, "": False}.items():
        monkeypatch.setenv("DIFFTRACK_FORCE", value)
        assert _run.forced() is forced


def test_a_missing_section_and_a_misspelt_path_are_named(words: Callable[..., None]) -> None:
    words("--", "matches=d")
    with pytest.raises(SystemExit, match=r"score: params\.yaml has no section score"):
        _run.run("score", lambda *_: None)
    words("tracks", "--", "matches=d")
    with pytest.raises(SystemExit, match="usage"):
        _run.run("match", lambda *_: None)


def test_params_that_are_no_yaml_are_one_line(words: Callable[..., None]) -> None:
    Path("params.yaml").write_text("match: {radius: [3\n")
    words("--", "matches=d")
    with pytest.raises(SystemExit) as raised:
        _run.run("match", lambda *_: None)
    assert "params.yaml is not valid YAML" in str(raised.value)
    assert "\n" not in str(raised.value)
