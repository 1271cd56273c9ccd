"""What DVC runs again, on the real dvc.yaml and a tiny backbone: a new question never re-runs the model."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox
from warm_python import path_with_python, python

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Project:
    """A copy of the project in which the pipeline can be run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repro(self) -> list[str]:
        """Run the pipeline; return the stages that ran, without their matrix cell, in order."""
        command = [python(), "-m", "dvc", "repro"]
        done = subprocess.run(command, cwd=self.root, env=_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [name.split("@")[0] for name in re.findall(r"^Running stage '(.+)'", done.stdout, re.MULTILINE)]

    def change(self, **sections: dict[str, Any]) -> None:
        """Change values of params.yaml, one level deep."""
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        for section, values in sections.items():
            params[section] = {**params[section], **values}
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": path_with_python(), "DVC_NO_ANALYTICS": "1", "PYTHONDONTWRITEBYTECODE": ""}


def _params(backbone: Path) -> dict[str, Any]:
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    sampling = {"num_frames": 9, "height": HEIGHT, "width": WIDTH}
    view = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 5}
    params["backbones"] = {"cogvideox-mini": {"path": str(backbone), "device": "cpu"}}
    clips = {"easy_object": 1, "easy_scene": 0, "hard_object": 0, "hard_scene": 0, "seed": 3}
    params["synthesize"]["rendered"] |= {**clips, **sampling}
    params["synthesize"]["generated"] |= {**sampling, "num_inference_steps": 5}
    params["extract"]["analysis"] |= {**view, "num_frames": 9, "steps": [0, 4]}
    params["extract"]["tracking"] |= {**view, "steps": [4], "layers": [2, 3], "chunks": {"chunk_len": 5}}
    params["track"] |= {"layers": [3], "heads": "all"}
    params["guide"] |= {**sampling, "num_inference_steps": 2}
    return params


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    skip = shutil.ignore_patterns("runs")
    for folder in ("stages", "difftrack", "data/prompts", "data/backbones", "benchmarks/results/ablation"):
        shutil.copytree(ROOT / folder, root / folder, ignore=skip)
    for file in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / file, root / file)
    backbone = save_cogvideox(tmp_path_factory.mktemp("weights"))
    (root / "params.yaml").write_text(yaml.safe_dump(_params(backbone)))
    init = [python(), "-m", "dvc", "init", "--no-scm", "-q"]
    subprocess.run(init, cwd=root, env=_environment(), check=True, capture_output=True)
    return Project(root)


def test_the_first_run_runs_everything_and_the_second_nothing(project: Project) -> None:
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(project.repro()) == set(declared) - {"survey"}
    assert (project.root / "data" / "report" / "index.html").exists()
    assert project.repro() == []


def dvc(folder: Path, *words: str) -> str:
    command = [python(), "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_colleague_pulls_what_was_pushed_to_a_remote(project: Project, tmp_path: Path) -> None:
    root, there = project.root, tmp_path / "clone"
    if not (root / "dvc.lock").exists():  # this test runs alone
        project.repro()
    dvc(root, "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    dvc(root, "push")
    there.mkdir()
    for name in ("dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore", ".dvc/config"):
        (there / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, there / name)
    dvc(there, "pull", "--allow-missing")
    for folder in ("tracks", "scores", "predictions"):
        own = {
            file.relative_to(root): file.read_bytes() for file in (root / "data" / folder).rglob("*") if file.is_file()
        }
        own = {name: content for name, content in own.items() if ".locks" not in name.parts}
        assert own
        assert own == {name: (there / name).read_bytes() for name in own}
    assert not any((there / "data" / folder).exists() for folder in ("clips", "descriptors", "matches", "samples"))
    shown = [json.loads(dvc(folder, "metrics", "show", "--json")) for folder in (root, there)]
    assert shown[0] == shown[1]
    assert all("error" not in file for file in shown[1][""]["data"].values())


def test_another_threshold_scores_and_reports_and_guides_only_by_other_layers(project: Project) -> None:
    ranking = project.root / "data" / "scores" / "cogvideox-mini" / "best_layers.json"
    before = ranking.read_text()
    project.change(score={"threshold_px": 4})
    ran = project.repro()
    assert [stage for stage in ran if stage != "guide"] == ["score", "report"]
    assert ("guide" in ran) == (ranking.read_text() != before)


def test_another_way_of_tracking_tracks_and_reports(project: Project) -> None:
    project.change(track={"layers": [2, 3]})
    assert project.repro() == ["track", "report"]


def test_another_convention_of_matching_never_runs_the_model(project: Project) -> None:
    project.change(match={"convention": "released"})
    ran = project.repro()
    assert ran[0] == "match"
    assert not {"synthesize", "extract", "annotate", "track"} & set(ran)


def test_one_more_clip_leaves_the_descriptors_of_all_others_untouched(project: Project) -> None:
    stores = project.root / "data" / "descriptors" / "cogvideox-mini"

    def shards() -> dict[Path, tuple[int, int]]:
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in stores.rglob("c.*") if file.is_file()}

    before = shards()
    rendered = yaml.safe_load((project.root / "params.yaml").read_text())["synthesize"]["rendered"]
    project.change(synthesize={"rendered": {**rendered, "easy_object": rendered["easy_object"] + 1}})
    assert {"synthesize", "extract"} <= set(project.repro())
    after = shards()
    assert before
    assert {file: after[file] for file in before} == before
    new = {file.relative_to(stores).parts[1] for file in set(after) - set(before)}
    assert new == {"rendered-easy-object-004"}


def test_metrics_and_plots_can_be_shown(project: Project) -> None:
    for arguments, wanted in (
        (["metrics", "show", "--json"], "average_pts_within_thresh"),
        (["plots", "show"], "html"),
    ):
        command = [python(), "-m", "dvc", *arguments]
        done = subprocess.run(
            command, cwd=project.root, env=_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout


def test_editing_the_metrics_never_runs_the_model(project: Project) -> None:
    metrics = next((project.root / "difftrack" / "metrics").glob("*.py"))
    metrics.write_text(metrics.read_text() + "\n")
    assert not {"synthesize", "extract", "annotate", "match"} & set(project.repro())


def test_a_misspelt_key_stops_the_pipeline_with_its_name(project: Project) -> None:
    project.change(score={"treshold_px": 4})
    command = [python(), "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=project.root, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "score: params.yaml: unknown key score.treshold_px; known: " in done.stdout + done.stderr
