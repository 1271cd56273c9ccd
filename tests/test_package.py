"""The installed package: one top-level name, everything it needs, and a workspace that runs with it alone."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm_python import path_with_python, python

from difftrack.pipeline._workspace import WorkspaceError, init_workspace, workspace_pipeline
from difftrack.pipeline.fingerprint import stage_fingerprints
from difftrack.resources import CAUSE_STUDY, shipped

ROOT = Path(__file__).parents[1]


# The workspace's pipeline


def test_a_workspace_runs_the_same_stages_from_the_package_and_depends_on_no_source_file() -> None:
    checkout = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    workspace = yaml.safe_load(workspace_pipeline())["stages"]
    assert list(workspace) == ["fingerprint", *checkout]
    for name, stage in checkout.items():
        of_package = workspace[name]
        assert of_package["cmd"] == stage["cmd"].replace(
            f"python -m stages.{name}", f"python -m difftrack.pipeline {name}"
        )
        assert [of_package.get(key) for key in ("params", "outs", "metrics", "matrix")] == [
            stage.get(key) for key in ("params", "outs", "metrics", "matrix")
        ]
        inside = [dep for dep in stage["deps"] if re.match(r"(stages|difftrack|data/backbones|benchmarks)/", dep)]
        file = f"{name}/${{item.backbone}}" if name in ("extract", "survey") else name
        assert [dep for dep in of_package["deps"] if dep not in stage["deps"]] == [f"data/fingerprints/{file}.json"]
        assert set(stage["deps"]) - set(of_package["deps"]) == set(inside)


def test_the_fingerprints_name_every_file_that_a_stage_depends_on() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    written = {f"data/fingerprints/{name}" for name, _ in stage_fingerprints(params)}
    wanted = set()
    for stage in yaml.safe_load(workspace_pipeline())["stages"].values():
        for dep in stage.get("deps", ()):
            wanted |= {dep.replace("${item.backbone}", name) for name in params["backbones"]}
    assert {dep for dep in wanted if dep.startswith("data/fingerprints")} == written


def test_a_fingerprint_tells_code_rooms_libraries_and_weights_apart(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = dict(stage_fingerprints(params))
    assert "metrics" in found["score.json"]["code"]
    assert "metrics" not in found["extract/cogvideox-mini.json"]["code"]
    assert set(found["extract/cogvideox-mini.json"]["libraries"]) == {"torch", "diffusers", "transformers"}
    assert "libraries" not in found["report.json"]
    assert found["report.json"]["study"] == hashlib.sha256(shipped(CAUSE_STUDY).read_bytes()).hexdigest()
    folder = tmp_path / "weights"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"transformer": ["diffusers", "X"]}')
    (folder / "transformer/a.safetensors").write_bytes(b"1")
    params["backbones"] = {"mine": {"path": str(folder)}}
    before = dict(stage_fingerprints(params))["extract/mine.json"]
    (folder / "transformer/a.safetensors").write_bytes(b"2")
    (folder / "transformer/notes.md").write_text("not weights")
    after = dict(stage_fingerprints(params))["extract/mine.json"]
    assert before["weights"] != after["weights"]
    assert before["code"] == after["code"]


def test_init_writes_a_workspace_and_leaves_what_is_there_alone(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / ".gitignore").write_text("mine\n")
    init_workspace(folder)
    assert (folder / ".gitignore").read_text() == "mine\n"
    assert yaml.safe_load((folder / "params.yaml").read_text()) == yaml.safe_load((ROOT / "params.yaml").read_text())
    schema = re.search(r"\$schema=(\S+)", (folder / "params.yaml").read_text())
    assert schema is not None
    assert (folder / schema[1]).is_file()
    assert "analytics = false" in (folder / ".dvc/config").read_text()
    with pytest.raises(WorkspaceError, match=r"already contains dvc\.yaml"):
        init_workspace(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="is a file; give a folder"):
        init_workspace(tmp_path / "file")


def test_init_in_a_git_repository_tracks_with_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    init_workspace(tmp_path / "study")
    status = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "study/params.yaml" in status.stdout
    (tmp_path / "study/dvc.lock").write_text("")  # to be committed: later runs are compared with it
    ignored = ["git", "check-ignore", "--quiet"]
    found = [
        subprocess.run([*ignored, name], cwd=tmp_path / "study", check=False) for name in ("data/clips", "dvc.lock")
    ]
    assert [done.returncode for done in found] == [0, 1]
    init_workspace(tmp_path)


def test_what_ships_is_found_and_what_does_not_is_named() -> None:
    assert (shipped("data/backbones/cogvideox-mini") / "model_index.json").is_file()
    with pytest.raises(FileNotFoundError, match="reinstall the package"):
        shipped("data/backbones/other")


# The wheel

pytest_slow = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out, in a separate folder; its dependencies are this environment's."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(installed: Path, folder: Path, *command: str) -> str:
    """Run Python with the installed package alone, in a folder that is not a checkout.

    The interpreter has imported the dependencies already, and no module of this project.
    """
    environment = {**os.environ, "PYTHONPATH": str(installed), "PATH": path_with_python(), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [python(), *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest_slow
def test_the_wheel_has_one_top_level_name_and_all_that_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"difftrack", "difftrack_video-0.1.0.dist-info"}
    for wanted in (
        "py.typed",
        "__init__.pyi",
        "configuration/params.schema.json",
        "presets/tracking-davis-cogvideox-2b.yaml",
        "reports/templates/report.css",
        "shipped/params.yaml",
        "shipped/benchmarks/results/ablation/ablation.json",
        "shipped/data/backbones/cogvideox-mini/vae/diffusion_pytorch_model.safetensors",
    ):
        assert f"difftrack/{wanted}" in names


@pytest_slow
@pytest.mark.timeout(900)
def test_the_installed_package_alone_runs_a_notebook_a_workspace_and_a_video(installed: Path, tmp_path: Path) -> None:
    from difftrack.media import write_video
    from difftrack.rendering import RenderSpec, render_clip

    frames = render_clip(RenderSpec(seed=3, num_frames=9, height=96, width=128)).frames
    write_video(tmp_path / "my.mp4", frames, 8.0, lossless=False)
    where = run(installed, tmp_path, "-c", "import difftrack; print(difftrack.__file__)")
    assert where.startswith(str(installed))
    script = shutil.copy(ROOT / "examples/first_look.py", tmp_path)
    out = run(installed, tmp_path, script, "my.mp4", "--size", "64", "96", "--grid", "3")
    assert "<PointTracks of my: 9 points in 9 frames of 128x96 px" in out
    results = {"descriptors.zarr", "heatmap.png", "scores.png", "tracks.csv", "tracks.mp4"}
    assert {path.name for path in (tmp_path / "first_look").iterdir()} == results
    run(installed, tmp_path, "-m", "difftrack.cli", "track", "my.mp4", "--grid", "2", "--size", "64x96")
    assert (tmp_path / "tracks/my-overlay.mp4").exists()
    run(installed, tmp_path, "-m", "difftrack.cli", "init", "study")
    study = tmp_path / "study"
    (study / "params.yaml").write_text(yaml.safe_dump(_tiny(yaml.safe_load((study / "params.yaml").read_text()))))
    assert "report: data/report/index.html" in run(installed, study, "-m", "difftrack.cli", "repro")
    again = run(installed, study, "-m", "dvc", "repro")
    assert re.findall(r"Running stage '(.+)'", again) == ["fingerprint"]
    metrics = next((installed / "difftrack/metrics").glob("_grid.py"))
    metrics.write_text(metrics.read_text() + "\n\n_CHANGED = 1\n")
    ran = re.findall(r"Running stage '(\w+)", run(installed, study, "-m", "dvc", "repro"))
    assert set(ran) <= {"fingerprint", "score", "track", "guide", "report"}
    assert {"score", "track"} <= set(ran)


def _tiny(params: dict[str, Any]) -> dict[str, Any]:
    clip = {"num_frames": 9, "height": 64, "width": 96}
    params["synthesize"]["sources"] = ["rendered"]
    params["synthesize"]["rendered"] |= {"easy_object": 1, "easy_scene": 0, "hard_object": 0, "hard_scene": 0, **clip}
    params["extract"]["analysis"] |= {**clip, "steps": [0, 49]}
    params["extract"]["tracking"] |= {"height": 64, "width": 96}
    params["guide"] |= {**clip, "num_inference_steps": 2}
    return params
