"""The store has the same bytes however clips are spread over processes, and whatever happens to these."""

import hashlib
import multiprocessing
import multiprocessing.spawn
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from warm_python import path_with_python, python

from difftrack.datasets import Clip, write_clip
from difftrack.pipeline import extract
from difftrack.store import StoreError, open_store
from difftrack.tracking import stored_chunks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_workers")]

CLIPS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    save_cogvideox(root / "backbone")
    for seed, name in enumerate(CLIPS):
        frames = np.random.default_rng(seed).integers(0, 256, (11, 31, 37, 3), dtype=np.uint8)
        write_clip(root / "clips", Clip(name, frames, fps=8.0, prompt="a red disc moves", source="rendered"))
    return root


def params(inputs: Path, **how: Any) -> dict[str, Any]:
    view = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 10}
    return {
        "backbones": {"tiny": {"path": str(inputs / "backbone")}},
        "extract": {
            "analysis": view | {"steps": [2, 6, 9], "num_frames": NUM_FRAMES},
            "tracking": view | {"steps": [9], "layers": [1, 3], "chunks": {"chunk_len": 5}},
            **how,
        },
    }


def run_stage(inputs: Path, store: Path, **how: Any) -> None:
    """Extract in this process; `how` holds params of `extract`."""
    cell = {"item": {"backbone": "tiny", "view": "analysis"}}
    extract.main(params(inputs, **how) | cell, {"clips": inputs / "clips"}, {"descriptors": store})


def started_stage(inputs: Path, descriptors: Path, folder: Path, *words: str, **how: Any) -> subprocess.Popen[str]:
    """Extract as DVC or a job array does."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params(inputs, **how)))
    command = [python(), "-m", "stages.extract", f"clips={inputs / 'clips'}", "item.backbone=tiny"]
    command += ["item.view=analysis", *words, "--", f"descriptors={descriptors}"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    run_stage(inputs, store)
    return digest(store)


@pytest.mark.parametrize(
    "how",
    [
        {"workers": 2},
        pytest.param({"workers": 4}, marks=pytest.mark.long),
        pytest.param({"workers": 2, "scheduler": "dask"}, marks=pytest.mark.long),  # the script for Dask always runs
        {"writers": 3, "write_depth": 2},
    ],
    ids=["2 processes", "4 processes", "dask", "3 writer threads"],
)
def test_workers_give_the_bytes_of_one(
    inputs: Path, undisturbed: dict[str, str], tmp_path: Path, how: dict[str, Any]
) -> None:
    run_stage(inputs, tmp_path / "store", **how)
    assert digest(tmp_path / "store") == undisturbed


@pytest.mark.parametrize("cores", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_number_of_threads_gives_the_same_bytes_however_many_cores_there_are(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    threads = torch.get_num_threads()
    try:
        run_stage(inputs, tmp_path / "alone", workers=1, threads=1)
        monkeypatch.setattr("difftrack.distribution._run._num_cores", lambda: cores)
        run_stage(inputs, tmp_path / "auto", workers="auto", threads=1)
    finally:
        torch.set_num_threads(threads)
    assert digest(tmp_path / "auto") == digest(tmp_path / "alone")


def test_parts_that_know_nothing_of_each_other_give_the_bytes_of_one(
    inputs: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    parts = [started_stage(inputs, store, tmp_path / part, f"item.part={part}/2") for part in "12"]
    said = [part.communicate(timeout=500)[0] for part in parts]
    assert [part.returncode for part in parts] == [0, 0], said
    assert digest(store) == undisturbed


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("script", ["slurm/extract.sbatch", "dask/extract.py"])
def test_the_scripts_of_examples_give_the_bytes_of_one(
    inputs: Path, undisturbed: dict[str, str], tmp_path: Path, script: str
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params(inputs)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clips").symlink_to(inputs / "clips")
    before = (tmp_path / "params.yaml").read_text()
    runs: list[tuple[list[str], dict[str, str]]]
    if script.endswith(".py"):
        runs = [([python(), str(ROOT / "examples" / script), "tiny", "analysis", "--workers", "2"], {})]
    else:
        runs = [
            (
                ["bash", str(ROOT / "examples" / script), "tiny"],
                {"SLURM_ARRAY_TASK_ID": part, "SLURM_ARRAY_TASK_COUNT": "2"},
            )
            for part in ("1", "2")
        ]
    for command, variables in runs:
        environment = {**os.environ, **variables, "PATH": path_with_python(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "data" / "descriptors" / "tiny" / "analysis") == undisturbed
    assert (tmp_path / "params.yaml").read_text() == before


def test_a_worker_killed_at_work_loses_nothing(inputs: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    killed: list[int | None] = []

    def kill_one_that_has_written() -> None:
        deadline, pause = time.monotonic() + 400, threading.Event()
        while time.monotonic() < deadline:
            pause.wait(0.005)  # the processor belongs to the workers
            if len(list(store.glob("*/query/c.*.0"))) > 3:
                victim = multiprocessing.active_children()[0]
                victim.kill()
                killed.append(victim.pid)
                return

    killer = threading.Thread(target=kill_one_that_has_written)
    killer.start()
    run_stage(inputs, store, workers=2)
    killer.join()
    assert len(killed) == 1
    assert digest(store) == undisturbed


def test_metadata_of_all_groups_is_there_before_a_worker_starts(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[str] = []

    def look(job: extract.ExtractJob, clips: list[str], **_: Any) -> list[tuple[str, None]]:
        there.extend(open_store(job.store).groups())
        return [(clip, None) for clip in clips]

    monkeypatch.setattr(extract, "run_clips", look)
    item = {"item": {"backbone": "tiny", "view": "tracking"}}
    extract.main(params(inputs, workers=2) | item, {"clips": inputs / "clips"}, {"descriptors": tmp_path / "store"})
    assert there == [f"{clip}/chunk_{index:03d}" for clip in CLIPS for index in range(3)]


def test_a_schedule_of_fewer_chunks_leaves_none_of_the_old_ones(inputs: Path, tmp_path: Path) -> None:
    given, store = params(inputs), tmp_path / "store"
    given["item"] = {"backbone": "tiny", "view": "tracking"}
    for chunk_len in (5, 11):
        given["extract"]["tracking"]["chunks"] = {"chunk_len": chunk_len}
        extract.main(given, {"clips": inputs / "clips"}, {"descriptors": store})
        chunks, _ = stored_chunks(open_store(store), CLIPS[0])
        assert len(chunks) == {5: 3, 11: 1}[chunk_len]
        assert [chunk.frames[0] for chunk in chunks] == [0] * len(chunks)


def test_chunks_of_other_params_are_not_tracked_together(inputs: Path, tmp_path: Path) -> None:
    given, store = params(inputs), tmp_path / "store"
    given["item"] = {"backbone": "tiny", "view": "tracking"}
    extract.main(given, {"clips": inputs / "clips"}, {"descriptors": store})
    given["extract"]["tracking"]["prompt"] = "clip"
    extract.main(given, {"clips": inputs / "clips"}, {"descriptors": tmp_path / "other"})
    shutil.rmtree(store / CLIPS[0] / "chunk_001")
    shutil.copytree(tmp_path / "other" / CLIPS[0] / "chunk_001", store / CLIPS[0] / "chunk_001")
    with pytest.raises(StoreError, match="chunk_001 comes from another clip, other weights or other params"):
        stored_chunks(open_store(store), CLIPS[0])


@pytest.mark.parametrize("codec", [pytest.param("blosc-zstd", marks=pytest.mark.long), "none"])
def test_two_runs_over_one_store_take_turns_and_leave_no_mixed_group(inputs: Path, tmp_path: Path, codec: str) -> None:
    store = tmp_path / "store"
    runs = [
        started_stage(inputs, store, tmp_path / str(number), store={"codec": own})
        for number, own in enumerate(("blosc-zstd", codec))
    ]
    said = [run.communicate(timeout=500)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert [check for check in open_store(store).verify() if check.problem or check.unproven] == []
    assert {open_store(store).params(clip).codec for clip in CLIPS} <= {"blosc-zstd", codec}
    assert not list(store.glob(".*"))
