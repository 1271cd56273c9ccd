"""All of params.yaml is looked at before the first stage runs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli import app
from difftrack.params import ParamsError
from stages._check import check_params

TOP = Path(__file__).parents[1]

Change = Callable[[dict[str, Any]], object]


def written(folder: Path, change: Change) -> Path:
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    change(params)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def test_the_shipped_params_can_be_used() -> None:
    check_params(TOP / "params.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["score"].update(treshold_px=6), r"unknown key score\.treshold_px; known: .*threshold_px"),
        (lambda p: p["extract"]["analysis"].update(hight=128), r"unknown key extract\.analysis\.hight"),
        (lambda p: p["report"].update(max_videos="three"), r"report\.max_videos is 'three'"),
        (lambda p: p["backbones"].update({"cogvideox-mini": {"dtyp": "float32"}}), r"backbones\.cogvideox-mini\.dtyp"),
        (lambda p: p["backbones"].update({"cogvideox-mini": {"device": "gpu"}}), r"device is 'gpu'; wanted: auto, cpu"),
        (lambda p: p["synthesize"]["rendered"].update(easy_object=-3), r"synthesize\.rendered: easy_object is -3"),
        (lambda p: p["synthesize"]["rendered"].update(fps=0), r"synthesize\.rendered: fps is 0"),
        (lambda p: p["synthesize"]["generated"].update(num_inference_steps=-3), r"num_inference_steps is -3"),
        (lambda p: p["extract"].update(max_bytes=-1), r"extract: max_bytes is -1"),
        (lambda p: p.update(tracking={}), r"unknown section tracking; known: .*track"),
    ],
)
def test_what_no_stage_can_use_is_named(change: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message):
        check_params(written(tmp_path, change))


def test_repro_refuses_before_dvc_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, lambda p: p["score"].update(treshold_px=6))
    calls: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cli.subprocess.call", lambda command: calls.append(command) or 3)
    result = CliRunner().invoke(app, ["repro"])
    assert result.exit_code == 1
    assert "treshold_px" in result.output
    assert not calls


def test_the_stages_themselves_still_refuse_their_own_section(tmp_path: Path) -> None:
    written(tmp_path, lambda p: p["score"].update(treshold_px=6))
    command = [sys.executable, "-m", "stages.score", "matches=m", "tracks=t", "clips=c", "--", "scores=s"]
    environment = {"PYTHONPATH": str(TOP), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "score: params.yaml: unknown key score.treshold_px" in done.stderr
