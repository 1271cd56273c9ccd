"""The example extension, installed beside the library: its laws, the list of models, and the pipeline."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from warm_python import python

from difftrack.datasets import Clip, write_clip
from difftrack.testing import moving_texture

TOP = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the example installed; pip builds it from a copy, without network."""
    folder = tmp_path_factory.mktemp("extension")
    shutil.copytree(TOP / "examples" / "extension", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "source")], check=True)
    return os.environ | {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{TOP}"}


def ran(installed: dict[str, str], *words: str, cwd: Path = TOP, interpreter: str = "") -> str:
    command = [interpreter or python(), *words]
    done = subprocess.run(command, cwd=cwd, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_obeys_the_laws(installed: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(TOP / "examples" / "extension" / "tests", tmp_path / "extension" / "tests")
    words = ["-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    said = ran(installed, *words, cwd=tmp_path, interpreter=sys.executable)  # pytest rewrites modules at their import
    assert "34 passed" in said


def test_it_is_in_the_list_of_models_and_its_capture_is_proven(installed: dict[str, str]) -> None:
    listed = ran(installed, "cli.py", "models")
    (row,) = [line for line in listed.splitlines() if line.startswith("toy-tiny")]
    assert row.split()[:4] == ["toy-tiny", "3x2x8", "9x48x80", "3x6x10"]
    assert "nobody/toy-tiny" in row
    checked = ran(installed, "cli.py", "models", "--check", "toy-tiny", "--device", "cpu")
    assert checked.count("ok  ") == 5
    assert "FAIL" not in checked


def test_it_runs_in_the_pipeline(installed: dict[str, str], tmp_path: Path) -> None:
    """The example's tracker annotates and is a baseline; its backbone gives the descriptors for tracking."""
    frames = moving_texture(num_frames=5, height=48, width=80)
    write_clip(tmp_path / "clips", Clip("moving", frames, fps=8.0, prompt="a texture", source="folder"))
    ran(installed, "-m", "difftrack_example.save", str(tmp_path / "toy"))
    size = {"height": 48, "width": 80, "num_inference_steps": 10, "steps": [9], "layers": [1, 2]}
    params = {
        "paths": {"clips": str(tmp_path / "clips")},
        "backbones": {"toy": {"path": str(tmp_path / "toy"), "device": "cpu", "dtype": "float32"}},
        "annotate": {"tracker": "template", "scene_grid": 3, "trackers": {"template": {"radius_px": 3}}},
        "extract": {"analysis": {**size, "num_frames": 5}, "tracking": {**size, "chunks": {"chunk_len": 3}}},
        "track": {"device": "cpu", "baselines": ["no_motion", "lucas_kanade", "template"]},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    code = (
        "import sys, yaml; from pathlib import Path; from stages import annotate, extract, track\n"
        "top = Path(sys.argv[1]); params = yaml.safe_load((top / 'params.yaml').read_text())\n"
        "clips, tracks, store = {'clips': top / 'clips'}, {'tracks': top / 'tracks'}, {'descriptors': top / 'store'}\n"
        "annotate.main(params['annotate'], clips, tracks)\n"
        "item = {'backbone': 'toy', 'view': 'tracking'}\n"
        "extract.main(params | {'item': item}, clips, store | {'kept': top / 'kept'})\n"
        "track.main(params['track'], clips | tracks | store, {'predictions': top / 'predictions'})\n"
    )
    ran(installed, "-c", code, str(tmp_path))
    metrics = json.loads((tmp_path / "predictions" / "metrics.json").read_text())
    assert metrics["failed"] == {}
    assert metrics["params"]["baselines"] == ["no_motion", "lucas_kanade", "template"]
    assert metrics["pseudo_truth"]["template"]["clips"] == ["moving"]
    predictions = np.load(tmp_path / "predictions" / "moving.npz")
    assert np.isfinite(predictions["points_xy_px"]).all()
    assert predictions["template_points_xy_px"].shape == predictions["points_xy_px"].shape
