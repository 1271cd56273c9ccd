import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox
from tiny_results import LAYERS, clip, write_store
from typer.testing import CliRunner

from difftrack.backbones import CaptureCheck, ModelParams, load_backbone, unknown_words
from difftrack.cli import app
from difftrack.cli._tracks import EVALUATION, _finer, _names, _read_choices
from difftrack.datasets import write_clip
from difftrack.evaluation import TrackSection
from difftrack.media import read_image, read_video, write_image, write_video
from difftrack.store import clip_group
from difftrack.tracking import TrackParams, read_predictions

TOP = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("descriptors")
    write_store(root)
    return root


def run(*args: object) -> tuple[int, str, str]:
    """Call the program once; return exit status, stdout and stderr."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


def test_info_says_what_a_store_holds(store: Path) -> None:
    status, out, _ = run("info", store)
    assert status == 0
    for wanted in ("1 group,", "square", "layers 1, 4", "steps  0, 20, 49", "3 x 5 x 7", "float16"):
        assert wanted in out


def test_the_file_itself_runs_like_the_installed_command() -> None:
    done = subprocess.run([sys.executable, "cli.py", "--help"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "track" in done.stdout


def test_help_and_info_need_no_torch_and_no_matplotlib(store: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from difftrack import cli\n"
        f"assert CliRunner().invoke(cli.app, ['info', {str(store)!r}]).exit_code == 0\n"
        "loaded = {'torch', 'diffusers', 'matplotlib', 'xarray', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_query_prints_a_line_per_frame(store: Path) -> None:
    status, out, _ = run("query", store, "--clip", "square", "--step", 20, "--layer", 4, "--point", "12,12")
    assert status == 0
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["frame", "x_px", "y_px", "probability", "margin"]
    assert [line[:3] for line in lines[1:]] == [
        ["0", "12.00", "12.00"],
        ["1", "20.00", "12.00"],
        ["2", "28.00", "12.00"],
    ]


def test_query_of_a_tracking_view_asks_for_a_chunk(tmp_path: Path) -> None:
    for chunk in (0, 1, 2):
        write_store(tmp_path, clip_group("square", chunk))
    ask = ("query", tmp_path, "--clip", "square", "--step", 20, "--layer", 4, "--point", "12,12")
    status, _, error = run(*ask)
    assert (status, len(error.splitlines())) == (1, 1)
    assert "square is a clip in a tracking view" in error
    assert "choose one with --chunk 0 ... 2" in error
    assert run(*ask, "--chunk", 1)[0] == 0


def test_help_names_a_store_of_the_shipped_backbone() -> None:
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    store = f"{params['paths']['descriptors']}/{next(iter(params['backbones']))}/analysis"
    assert store in "".join(run("info", "--help")[1].replace("│", "").split())


def test_query_draws_what_it_found(store: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clips", clip())
    where = ("--clip", "square", "--step", 20, "--layer", 4, "--point", "12,12", "--frame", 2)
    status, out, _ = run("query", store, *where, "--png", tmp_path / "out.png", "--clips", tmp_path / "clips")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert read_image(tmp_path / "out.png").std() > 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--layer", 3), f"no layer 3; there are {LAYERS[0]}, {LAYERS[1]}"),
        (("--clip", "circle"), "circle does not exist; the store contains square"),
        (("--point", "99,12"), "(99, 12) lies outside clip square of 56x40 px"),
        (("--frame", 9), "frame 9 of square"),
    ],
)
def test_query_for_what_is_not_there_is_one_line_and_exit_status_1(
    store: Path, changed: tuple[str, object], named: str
) -> None:
    asked = {"--clip": "square", "--step": 20, "--layer": 4, "--point": "12,12"} | dict([changed])
    status, out, error = run("query", store, *(part for pair in asked.items() for part in pair))
    assert (status, out) == (1, "")
    assert len(error.splitlines()) == 1
    assert named in error


@pytest.mark.parametrize("point", ["12", "12,x", "", "1,2 3,4"])
def test_point_that_is_no_point_is_a_usage_error(store: Path, point: str) -> None:
    status, _, error = run("query", store, "--clip", "square", "--step", 20, "--layer", 4, "--point", point)
    assert status == 2
    assert "point" in error


def test_missing_store_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    status, _, error = run("info", tmp_path / "nothing")
    assert status == 1
    assert error.startswith("difftrack: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("folder", ["data", "docs", ""])
def test_a_folder_that_holds_no_store_is_refused(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data/prompts", "docs/decisions"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for verb in ("info", "verify"):
        status, out, error = run(verb, folder)
        assert (status, out, len(error.splitlines())) == (1, "", 1)
        assert f"{folder or '.'} is not a store" in error


def test_a_store_that_lost_its_own_header_is_still_one(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy")
    (tmp_path / "copy" / "zarr.json").unlink()
    status, out, _ = run("verify", tmp_path / "copy")
    assert status == 1
    assert "zarr.json is missing" in out


def test_a_store_of_the_pipeline_that_is_not_there_yet_says_what_writes_it(tmp_path: Path) -> None:
    for verb in ("info", "verify"):
        status, _, error = run(verb, tmp_path / "analysis")
        assert (status, len(error.splitlines())) == (1, 1)
        assert "analysis is not a store" in error
        assert "`make repro` (or `difftrack repro`)" in error


def test_verify_passes_a_sound_store_and_names_a_damaged_shard(store: Path, tmp_path: Path) -> None:
    assert run("verify", store)[0] == 0
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    shard = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: (path.stat().st_size, str(path)))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    status, out, _ = run("verify", copy)
    assert status == 1
    assert str(shard) in out
    assert "1 damaged" in out


def test_models_lists_every_name_and_its_old_one() -> None:
    status, out, _ = run("models")
    assert status == 0
    assert "cogvideox-2b" in out
    assert "cogvideox_t2v_2b" in out
    status, out, _ = run("models", "cogvideox-mini")
    assert status == 0
    assert out.startswith("cogvideox-mini comes with the package: 8 layers x 4 heads x 64 channels; `difftrack models")


def test_models_prove_capture_here_and_fail_where_it_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, error = run("models", "--check", "cogvideox_t2v_2b", "--device", "cpu")
    assert status == 0, error
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["ok"] * 5
    law = CaptureCheck("a law", passed=False, found="broken")
    monkeypatch.setattr("difftrack.backbones.check_capture", lambda name, params: iter([law]))
    status, out, _ = run("models", "--check", "mochi-1", "--device", "cpu")
    assert (status, out.splitlines()[-1]) == (1, "FAIL a law: broken")
    status, _, error = run("models", "--check", "sora", "--device", "cpu")
    assert status == 1


def test_capture_is_proved_of_a_folder_and_of_the_shipped_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = save_cogvideox(tmp_path / "data" / "backbones" / "cogvideox-mini")
    monkeypatch.chdir(tmp_path)
    for name in (f"path:{shipped}", "path:data/backbones/cogvideox-mini"):
        status, out, error = run("models", "--check", name, "--device", "cpu")
        assert status == 0, error
        first, *laws = out.splitlines()
        assert first == f"{name}, as it is, on cpu"
        assert [line.split()[0] for line in laws] == ["ok"] * 5


def test_presets_are_listed_and_told_without_running(tmp_path: Path) -> None:
    status, out, _ = run("preset")
    assert status == 0
    assert out.count("\n") == 15
    work = tmp_path / "work"
    where = ("--params", TOP / "params.yaml", "--work", work, "--set", "score.threshold_px=5")
    status, out, _ = run("preset", "analysis-cogvideox-5b", "--dry-run", *where)
    assert status == 0
    for said in (
        "released: python analyze_generation.py",
        "threshold_px: 5",
        "dvc repro survey@cogvideox-5b",
        "missing:",
    ):
        assert said in out
    assert "does not exist yet), published" in out
    assert not work.exists()
    for wrong in (("guidance-sora",), ("guidance-cogvideox-2b", *where)):
        status, _, error = run("preset", *wrong)
        assert (status, len(error.splitlines())) == (1, 1)
        assert "guidance-cogvideox-2b" in error or "guide.prompts" in error


def _project(folder: Path) -> Path:
    """A params file with a tiny backbone, and a video of seven frames of an odd size."""
    save_cogvideox(folder / "backbone")
    params = {
        "backbones": {"tiny": {"path": str(folder / "backbone")}},
        "extract": {
            "tracking": {
                "height": HEIGHT,
                "width": WIDTH,
                "num_inference_steps": 5,
                "steps": [4],
                "layers": [1, 2],
                "chunks": {"chunk_len": 4},
            }
        },
        "track": {"layers": [2], "baselines": ["no_motion"]},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    rng = np.random.default_rng(0)
    write_video(folder / "my video.mp4", rng.integers(0, 255, (7, 53, 71, 3), dtype=np.uint8), 5.0, lossless=True)
    return folder


def test_track_writes_arrays_table_and_overlay_for_a_video_of_ones_own(tmp_path: Path) -> None:
    project = _project(tmp_path)
    where = ("--params", project / "params.yaml", "--out", tmp_path / "out")
    status, out, error = run("track", project / "my video.mp4", "--points", "10,20 50.5,30", *where)
    assert status == 0, error
    assert {Path(line).name for line in out.splitlines()} == {
        "my-video-tracks.npz",
        "my-video-tracks.csv",
        "my-video-overlay.mp4",
    }
    with np.load(tmp_path / "out" / "my-video-tracks.npz") as arrays:
        assert arrays["tracker"] == "difftrack"
    queries, predictions = read_predictions(tmp_path / "out" / "my-video-tracks.npz")
    assert queries.tolist() == [[0, 10, 20], [0, 50.5, 30]]
    tracks = predictions["tracker"]
    assert tracks.points_xy_px.shape == (7, 2, 2)
    np.testing.assert_allclose(tracks.points_xy_px[0], queries[:, 1:], rtol=1e-6)
    with (tmp_path / "out" / "my-video-tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 2
    assert float(rows[5]["x_px"]) == pytest.approx(float(tracks.points_xy_px[2, 1, 0]))
    # Four times as large, and a strip with the legend.
    assert read_video(tmp_path / "out" / "my-video-overlay.mp4").frames.shape == (7, 4 * 53 + 22, 4 * 71, 3)


def test_track_leaves_the_video_beside_which_it_writes_as_it_is(tmp_path: Path) -> None:
    project = _project(tmp_path)
    video = (project / "my video.mp4").rename(project / "mine.mp4")
    before = video.read_bytes()
    where = ("--params", project / "params.yaml", "--out", project)
    status, out, error = run("track", video, "--points", "10,20", *where)
    assert status == 0, error
    assert video.read_bytes() == before
    assert str(video) not in out.splitlines()


def test_points_outside_the_video_are_refused_in_its_own_pixels_before_the_backbone_is_loaded(tmp_path: Path) -> None:
    project = _project(tmp_path)
    shutil.rmtree(project / "backbone")
    status, _, error = run(
        "track", project / "my video.mp4", "--points", "10,20 80,30", "--params", project / "params.yaml"
    )
    assert (status, len(error.splitlines())) == (1, 1)
    assert "query point 1 is (frame 0, x 80, y 30)" in error
    assert "inside 71x53 pixels" in error


@pytest.mark.parametrize("paths", [{"scores": "elsewhere"}, {}, None])
def test_track_reads_the_best_layers_from_the_scores_of_the_params(
    paths: dict[str, str] | None, tmp_path: Path
) -> None:
    project = _project(tmp_path)
    file = project / "params.yaml"
    params = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**params, "paths": paths, "track": {**params["track"], "layers": "best"}}))
    scores = project / ((paths or {}).get("scores") or "data/scores") / "tiny"
    scores.mkdir(parents=True)
    (scores / "best_layers.json").write_text(json.dumps({"layers": [2, 1]}))
    status, _, error = run(
        "track", project / "my video.mp4", "--points", "1,2", "--params", file, "--out", tmp_path / "o"
    )
    assert status == 0, error


@pytest.mark.parametrize("verb", ["plan", "guide"])
def test_a_params_file_that_is_not_there_is_asked_for_by_its_option(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "video.mp4", np.zeros((3, 16, 24, 3), np.uint8), 5.0, lossless=True)
    status, _, error = run(verb, *(("video.mp4", "--grid", 2) if verb == "track" else ()))
    assert (status, len(error.splitlines())) == (1, 1)
    assert "there is no params.yaml: run this in the folder of a params file" in error
    assert "--params" in error


def test_track_shows_the_backbone_the_size_that_is_asked_for(tmp_path: Path) -> None:
    project = _project(tmp_path)
    ask = ("track", project / "my video.mp4", "--points", "10,20 50.5,30", "--params", project / "params.yaml")
    found = []
    for size in (f"{HEIGHT}x{WIDTH}", f"{2 * HEIGHT}x{2 * WIDTH}"):
        status, _, error = run(*ask, "--out", tmp_path / size, "--size", size)
        assert status == 0, error
        found.append(read_predictions(tmp_path / size / "my-video-tracks.npz")[1]["tracker"].points_xy_px)
    assert found[0].shape == found[1].shape
    assert np.abs(found[0] - found[1]).max() > 0.1
    status, _, error = run(*ask, "--size", f"{HEIGHT + 1}x{WIDTH}")
    assert (status, len(error.splitlines())) == (1, 1)
    assert f"{HEIGHT + 1}" in error
    assert run(*ask, "--size", "big")[0] == 2


def test_fine_tracks_are_of_the_size_that_was_measured_to_track_real_video_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 x 384 where params.yaml says 160 x 240; `--size` and `--quality` exclude each other."""
    monkeypatch.chdir(TOP)
    tracker = _read_choices(None, None, None, None)
    assert (tracker.view.height, tracker.view.width) == (160, 240)
    assert (_finer(tracker.view).height, _finer(tracker.view).width) == (256, 384)
    assert run("track", tmp_path / "v.mp4", "--grid", 3, "--quality", "finest")[0] == 2
    assert run("track", tmp_path / "v.mp4", "--grid", 3, "--quality", "fine", "--size", "64x96")[0] == 2


def test_track_wants_either_points_or_a_grid(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    write_video(video, np.zeros((3, 16, 24, 3), np.uint8), 5.0, lossless=True)
    assert run("track", video)[0] == 2
    assert run("track", video, "--points", "1,2", "--grid", 3)[0] == 2


def test_unreadable_video_and_unknown_backbone_are_one_line_each(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    status, _, error = run("track", broken, "--grid", 3)
    assert (status, len(error.splitlines())) == (1, 1)
    assert str(broken) in error
    project = _project(tmp_path)
    where = ("--params", project / "params.yaml", "--out", tmp_path / "out")
    status, _, error = run("track", project / "my video.mp4", "--grid", 3, "--backbone", "sora", *where)
    assert (status, len(error.splitlines())) == (1, 1)
    assert "sora" in error
    assert "cogvideox-2b" in error
    (project / "params.yaml").write_text("track: [")
    status, _, error = run("track", project / "my video.mp4", "--grid", 3, *where)
    assert (status, len(error.splitlines())) == (1, 1)
    assert "not valid YAML" in error


def test_a_way_with_cuts_that_is_unknown_is_named(tmp_path: Path) -> None:
    status, out, told = run("track", tmp_path / "no.mp4", "--grid", "3", "--cuts", "restart")
    assert status == 2
    assert "--cuts restart" in out + told


def test_repro_hands_its_arguments_to_dvc_and_force_to_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], str | None]] = []

    def call(command: list[str], env: Mapping[str, str]) -> int:
        calls.append((command, env.get("DIFFTRACK_FORCE")))
        return 3

    monkeypatch.delenv("DIFFTRACK_FORCE", raising=False)
    monkeypatch.setattr("difftrack.cli._pipeline._call", call)
    status, _, error = run("repro", "report", "--force")
    assert (status, error) == (3, "")  # the status of dvc, which has printed the reason
    assert run("repro", "-s", "report")[0] == 3
    dvc = [sys.executable, "-m", "dvc", "repro"]
    assert calls == [([*dvc, "report", "--force"], "1"), ([*dvc, "-s", "report"], None)]


def _changed(project: Path, **sections: Any) -> Path:
    """The project's params file with some sections replaced; None leaves one out."""
    file = project / "params.yaml"
    params = yaml.safe_load(file.read_text()) | sections
    file.write_text(yaml.safe_dump({name: values for name, values in params.items() if values is not None}))
    return file


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"extract": {}}, "extract.tracking is None; expected a mapping"),
        ({"extract": {"tracking": None}}, "extract.tracking is None; expected a mapping"),
        ({"extract": {"tracking": {"hight": 3}}}, "unknown key extract.tracking.hight"),
        ({"backbones": {}}, "backbones is empty; it needs at least one"),
        ({"backbones": {"tiny": 3}}, "backbones.tiny is 3"),
        ({"paths": {"scores": 3}}, "paths.scores is 3"),
        ({"track": {"layer": [2]}}, "unknown key track.layer; known: "),
        ({"track": {"matching": {"radius": 2}}}, "track.matching.radius"),
        ({"track": None}, "section track is missing"),
    ],
)
def test_track_looks_at_its_params_first_and_names_their_file(
    sections: dict[str, Any], named: str, tmp_path: Path
) -> None:
    file = _changed(_project(tmp_path), **sections)
    status, out, error = run("track", tmp_path / "nosuch.mp4", "--grid", 2, "--params", file)
    assert (status, out, len(error.splitlines())) == (1, "", 1)
    assert f"difftrack: {file}: " in error
    assert named in error


def test_track_matches_on_the_device_of_its_params(tmp_path: Path) -> None:
    file = _changed(_project(tmp_path), track={"device": "cuda:99"})
    status, _, error = run("track", file.parent / "my video.mp4", "--grid", 2, "--params", file)
    assert (status, len(error.splitlines())) == (1, 1)
    assert "device is cuda:99" in error


def test_what_track_leaves_out_is_what_the_stage_has_beside_the_tracker() -> None:
    own = {field.name for field in dataclasses.fields(TrackSection)}
    assert set(EVALUATION) == own - {field.name for field in dataclasses.fields(TrackParams)}


def test_choices_of_one_backbone_are_not_applied_to_another_unless_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = _project(tmp_path)
    monkeypatch.chdir(project)
    ask = ("track", "nosuch.mp4", "--grid", 2, "--backbone")
    for backbone, hint in {
        "cogvideox-2b": "`difftrack preset tracking-davis-cogvideox-2b --dry-run`",
        "cogvideox_t2v_2b": "`difftrack preset tracking-davis-cogvideox-2b --dry-run`",
        "mochi-1": "`difftrack preset`",
    }.items():
        status, _, error = run(*ask, backbone)
        assert (status, len(error.splitlines())) == (1, 1)
        for said in ("extract.tracking.layers, height and width", "track.layers and track.heads", "--params", hint):
            assert said in error
        assert f"were chosen for tiny, the first of its backbones, not for {backbone};" in error
    for fits in (("tiny",), (f"path:{project / 'backbone'}",), ("mochi-1", "--params", "params.yaml")):
        assert "nosuch.mp4" in run(*ask, *fits)[2]
    assert "Any other needs --params" in " ".join(run("track", "--help")[1].replace("│", "").split())


def test_best_layers_that_nobody_has_ranked_yet_are_asked_for(tmp_path: Path) -> None:
    file = _changed(_project(tmp_path), track={"layers": "best"}, guide={"backbone": "tiny", "prompts": "p.txt"})
    (tmp_path / "prompts.txt").write_text("a red disc\n")
    asked = (("track", tmp_path / "my video.mp4", "--grid", 2), ("guide", tmp_path / "prompts.txt"))
    for ask in asked:
        status, _, error = run(*ask, "--params", file)
        assert (status, len(error.splitlines())) == (1, 1)
        assert f"there is no {tmp_path / 'data/scores/tiny/best_layers.json'}; run `make repro`" in error


def test_guide_looks_at_the_prompts_before_the_ranking(tmp_path: Path) -> None:
    file = _changed(_project(tmp_path), guide={"backbone": "tiny", "prompts": "p.txt"})
    status, _, error = run("guide", tmp_path / "nosuch.txt", "--params", file)
    assert (status, len(error.splitlines())) == (1, 1)
    assert f"{tmp_path / 'nosuch.txt'} cannot be read" in error
    file = _changed(tmp_path, guide={"backbone": "tiny", "prompts": "p.txt", "scale": "much"})
    assert f"{file}: guide.scale is 'much'" in run("guide", tmp_path / "nosuch.txt", "--params", file)[2]


@pytest.mark.parametrize("made", [True, False])
def test_repro_prints_headlines_where_there_are_some(
    made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "data" / "report"
    if made:
        report.mkdir(parents=True)
        (report / "headlines.json").write_text(json.dumps([{"value": "7", "label": "layers"}]))
    (tmp_path / "params.yaml").write_text("paths: {report: data/report}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("difftrack.cli._pipeline._call", lambda command, env: 0)
    status, out, error = run("repro", "--dry", "-s", "synthesize")
    assert (status, error) == (0, "")
    assert [line.split() for line in out.splitlines()] == (
        [["7", "layers"], ["report:", "data/report/index.html"]] if made else []
    )


def test_repro_outside_the_project_says_what_it_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = run("repro")
    assert (status, len(error.splitlines())) == (1, 1)
    assert "there is no params.yaml: run this in the folder of a params file" in error


# track: inputs, names, queries, overlays


def _run_track(project: Path, video: Path, *choices: object, out: Path) -> tuple[int, str, str]:
    return run("track", video, "--params", project / "params.yaml", "--out", out, *choices)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def test_two_videos_of_one_name_leave_two_sets_of_results(tmp_path: Path) -> None:
    """Frames of two cameras, and two files whose names differ only in letters beyond ASCII."""
    project, out = _project(tmp_path), tmp_path / "out"
    rng = np.random.default_rng(1)
    sources = [tmp_path / "camA" / "rgb", tmp_path / "camB" / "rgb", tmp_path / "影片一.mp4", tmp_path / "影片二.mp4"]
    for source in sources:
        frames = rng.integers(0, 255, (3, 53, 71, 3), dtype=np.uint8)
        if source.suffix:
            write_video(source, frames, 5.0, lossless=True)
        else:
            source.mkdir(parents=True)
            for index, frame in enumerate(frames):
                write_image(source / f"{index}.png", frame)
        assert _run_track(project, source, "--points", "10,20", out=out)[0] == 0
    names = ("rgb", "camB-rgb", "影片一", "影片二")
    assert {file.name for file in out.glob("*.npz")} == {f"{name}-tracks.npz" for name in names}
    digests = {str(_arrays(out / f"{name}-tracks.npz")["source_sha256"]) for name in names}
    assert len(digests) == 4
    # The same video again takes its own name; another video under a name in use needs --force.
    again = _run_track(project, sources[1], "--points", "30,20", out=out)
    assert (again[0], "camB-rgb-tracks.npz" in again[1]) == (0, True)
    refused = _run_track(project, sources[2], "--points", "1,2", "--name", "rgb", out=out)
    assert refused[0] == 1
    assert "rgb-tracks.npz holds tracks of another rgb; name another folder with --out" in refused[2]
    assert _run_track(project, sources[2], "--points", "1,2", "--name", "rgb", "--force", out=out)[0] == 0
    assert str(_arrays(out / "rgb-tracks.npz")["source"]) == "影片一.mp4"


@pytest.mark.parametrize("name", ["🐱.mp4", "-rf.mp4", "🐱 walks.mp4", "--.mp4"])
def test_no_result_of_track_looks_like_an_option(tmp_path: Path, name: str) -> None:
    assert not any(each.startswith("-") for each in _names(tmp_path / "clips" / name))
    assert _names(tmp_path / "🐱.mp4")[0] != _names(tmp_path / "🐶.mp4")[0]


def test_track_takes_some_frames_and_says_in_the_npz_by_what_it_was_made(tmp_path: Path) -> None:
    project = _project(tmp_path)
    video, out = project / "my video.mp4", tmp_path / "out"
    status, _, error = _run_track(
        project, video, "--points", "10,20", "--frame", 1, "--start", 1, "--every", 2, "--max-frames", 3, out=out
    )
    assert status == 0, error
    arrays = _arrays(out / "my-video-tracks.npz")
    assert arrays["video_frames"].tolist() == [1, 3, 5]
    assert arrays["query_points"].tolist() == [[1, 10, 20]]
    assert arrays["points_xy_px"].shape == (3, 1, 2)
    assert (float(arrays["fps"]), arrays["size"].tolist()) == (2.5, [53, 71])
    assert str(arrays["backbone"]) == "tiny"
    assert str(arrays["backbone_fingerprint"]) == load_backbone(f"path:{project / 'backbone'}").fingerprint
    params = json.loads(str(arrays["params"]))
    assert params["extract.tracking"]["layers"] == [1, 2]
    assert params["track"]["layers"] == [2]
    assert str(arrays["version"])
    # The three frames are treated as a video of their own; its name, which seeds the noise, is the same.
    own, alone = read_video(video, start=1, every=2, max_frames=3), tmp_path / "alone" / video.name
    alone.parent.mkdir()
    write_video(alone, own.frames, own.fps, lossless=True)
    assert _run_track(project, alone, "--points", "10,20", "--frame", 1, "--name", "own", out=out)[0] == 0
    np.testing.assert_array_equal(_arrays(out / "own-tracks.npz")["points_xy_px"], arrays["points_xy_px"])


def test_queries_come_from_a_table_or_from_a_grid_inside_a_mask(tmp_path: Path) -> None:
    project, out = _project(tmp_path), tmp_path / "out"
    video = project / "my video.mp4"
    (tmp_path / "points.csv").write_text("name;X;Frame;Y\nnose;10;0;20\near;50,5;4;30\n", encoding="utf-8-sig")
    assert _run_track(project, video, "--queries", tmp_path / "points.csv", out=out)[0] == 0
    assert _arrays(out / "my-video-tracks.npz")["query_points"].tolist() == [[0, 10, 20], [4, 50.5, 30]]
    mask = np.zeros((53, 71), dtype=np.uint8)
    mask[10:20, 30:60] = 255
    write_image(tmp_path / "mask.png", mask)
    where = ("--grid", 3, "--mask", tmp_path / "mask.png", "--frame", 2)
    assert _run_track(project, video, *where, "--side-by-side", "--radius", 3, "--scale", 2, out=out)[0] == 0
    points = _arrays(out / "my-video-tracks.npz")["query_points"]
    assert len(points) == 9
    assert set(points[:, 0].tolist()) == {2.0}
    assert points[:, 1].min() > 30
    assert points[:, 1].max() < 60
    assert points[4].tolist() == [2, 45, 15]
    assert read_video(out / "my-video-overlay.mp4").frames.shape == (7, 2 * 53 + 22, 2 * (2 * 71) + 8, 3)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (["--queries", "bad.csv"], "bad.csv, line 3: "),
        (["--queries", "columns.csv"], "columns.csv: has no column frame; expected frame, x, y"),
        (["--queries", "decimals.csv"], "decimals.csv, line 2: has 5 cells for 3 columns"),
        (["--queries", "no.csv"], "no.csv: cannot be read as a table"),
        (["--grid", "2", "--mask", "black.png"], "the mask is 71x53 and black throughout"),
        (["--grid", "2", "--mask", "small.png"], "small.png"),
        (["--points", "1,2", "--frame", "7"], "query point 0 is (frame 7, x 1, y 2)"),
        (["--points", "1,2", "--start", "6"], "has 1 frame(s) with --start 6 and --every 1; tracking needs at least 2"),
    ],
)
def test_queries_that_cannot_be_are_refused_before_the_backbone_is_looked_at(
    choices: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = _project(tmp_path)
    shutil.rmtree(project / "backbone")
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("frame,x,y\n0,1,2\n0,left,2\n")
    Path("decimals.csv").write_text("frame,x,y\n0,1,5,2,5\n")
    Path("columns.csv").write_text("t,x,y\n0,1,2\n")
    write_image(Path("black.png"), np.zeros((53, 71), np.uint8))
    write_image(Path("small.png"), np.full((5, 7), 255, np.uint8))
    status, _, error = run("track", "my video.mp4", "--params", "params.yaml", *choices)
    assert (status, len(error.splitlines())) == (1, 1)
    assert said in error


def test_a_video_that_will_not_fit_is_refused_with_what_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = _project(tmp_path)
    free = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    status, _, error = _run_track(project, project / "my video.mp4", "--grid", 2, out=tmp_path / "out")
    assert (status, len(error.splitlines())) == (1, 1)
    assert "7 frames in 2 chunks, about 0.0 GB, but 0.0 GB are free; use fewer frames (--max-frames, --every)" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://host/v.mp4", "https://host/v.mp4: is a URL"),
        ("set.PKL", "is a pickle, not a video; if it is a data set like TAP-Vid, set it as synthesize.folder.path"),
        ("v.mp4.gz", "is an archive; unpack it first"),
        ("nosuch.mp4", "the file does not exist"),
    ],
)
def test_what_is_no_video_says_why(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = _project(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("set.PKL").write_bytes(b"\x80\x04}.")
    Path("v.mp4.gz").write_bytes(b"\x1f\x8b")
    status, _, error = run("track", name, "--grid", 2, "--params", project / "params.yaml")
    assert (status, len(error.splitlines())) == (1, 1)
    assert said in error


def test_paths_of_a_params_file_start_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    file = _changed(_project(project), backbones={"tiny": {"path": "backbone"}})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    status, _, error = run("track", project / "my video.mp4", "--points", "1,2", "--params", file)
    assert status == 0, error
    _changed(project, backbones={"tiny": {"path": "nowhere"}})
    status, _, error = run("track", project / "my video.mp4", "--points", "1,2", "--params", file)
    assert (status, len(error.splitlines())) == (1, 1)
    assert f"backbones.tiny.path is {project / 'nowhere'}, which holds no model_index.json" in error


def test_an_unknown_backbone_is_called_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for where in ((), ("--params", _project(tmp_path) / "params.yaml")):
        status, _, error = run("track", "nosuch.mp4", "--grid", 2, "--backbone", "wann", *where)
        assert (status, len(error.splitlines())) == (1, 1)
        assert "unknown backbone 'wann'; known: cogvideox-mini" in error


def test_what_is_light_is_checked_before_torch_is_imported(tmp_path: Path) -> None:
    """One separate process, in which importing torch would be an error."""
    (tmp_path / "params.yaml").write_text((TOP / "params.yaml").read_text())
    (tmp_path / "no.txt").write_text("no video")
    write_video(tmp_path / "clip.mp4", np.zeros((3, 16, 24, 3), np.uint8), 8.0, lossless=True)
    asked = [
        ["track", "nosuch.mp4", "--grid", "2"],
        ["track", "no.txt", "--grid", "2"],
        ["track", "nosuch.mp4", "--grid", "2", "--backbone", "wann"],
        ["track", "nosuch.mp4", "--grid", "2", "--params", "nowhere.yaml"],
        ["gc"],
        ["plan", "--params", "nowhere.yaml"],
        ["guide", "nosuch.txt"],
        ["params", "track.heads"],
        ["models", "cogvideox-mini", "--words"],
        ["models", "wann"],
        ["models", "--check", "wann"],
        ["models"],
        ["models", "cogvideox-2b"],
        ["models", "--memory"],
        ["explore", "nosuch", "--no-browser"],
        ["propagate", "nosuch.mp4", "--points", "3,4"],
        ["propagate", "clip.mp4", "--mask", "nosuch.png"],
        ["propagate", "clip.mp4", "--points", "3,4", "--backbone", "wann"],
        ["propagate", "clip.mp4", "--boxes", "3,4"],
    ]
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from typer.testing import CliRunner; from difftrack.cli import app\n"
        f"for words in {asked!r}:\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    print(result.exit_code, repr(result.exception), result.output.splitlines()[:1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*"1111111", *"001", *"1000", *"11112"]
    assert "torch" not in done.stdout


def test_a_closed_vocabulary_is_listed_and_other_words_are_named() -> None:
    status, out, _ = run("models", "cogvideox-mini", "--words")
    words = out.split()
    assert status == 0
    assert {"square", "moves", "counterclockwise"} <= set(words)
    assert words == sorted(words)
    assert unknown_words("cogvideox-mini", "a red square moves left") == []
    assert unknown_words("cogvideox-mini", "a cat walks through the grass, a cat") == [
        "cat",
        "walks",
        "through",
        "grass",
    ]
    assert unknown_words("cogvideox-2b", "a cat") == []
    assert run("models", "cogvideox-2b", "--words")[0] == 1
    with pytest.warns(UserWarning, match=r"was not trained on the words cat of 'a cat'; `difftrack models"):
        load_backbone("cogvideox-mini", ModelParams(device="cpu")).embed("a cat")


def test_collecting_garbage_where_there_is_none_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((TOP / "params.yaml").read_text())
    (tmp_path / "data" / "clips").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    status, out, error = run("gc")
    assert status == 0, error
    assert out == "nothing to remove: all data is needed\n"
