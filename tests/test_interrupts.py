"""Ctrl-C and SIGTERM, sent to real stages: one line, the status of the signal, no worker left, and a run that goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox

from difftrack.datasets import Clip, write_clip, write_manifest
from difftrack.interrupts import Interrupted, interruptible, lack_of_memory

CLIPS = [f"clip-{index}" for index in range(40)]
TOP = Path(__file__).parents[1]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small clips and a tiny backbone, so that a stage is at work for long enough to be interrupted."""
    root = tmp_path_factory.mktemp("inputs")
    save_cogvideox(root / "backbone")
    for seed, name in enumerate(CLIPS):
        frames = np.random.default_rng(seed).integers(0, 256, (11, 31, 37, 3), dtype=np.uint8)
        write_clip(root / "clips", Clip(name, frames, fps=8.0, prompt="a red disc moves", source="rendered"))
    write_manifest(root / "clips", CLIPS)
    return root


def params(inputs: Path, **how: Any) -> dict[str, Any]:
    view = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 10}
    return {
        "backbones": {"tiny": {"path": str(inputs / "backbone"), "device": "cpu"}},
        "annotate": {"tracker": "lucas_kanade", "scene_grid": 20},
        "extract": {
            "analysis": view | {"steps": [2, 6, 9], "num_frames": NUM_FRAMES},
            "tracking": view | {"steps": [9], "layers": [1, 3], "chunks": {"chunk_len": 5}},
            **how,
        },
    }


def start(folder: Path, given: dict[str, Any], stage: str, *words: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(given))
    environment = {**os.environ, "PYTHONPATH": str(TOP), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", f"stages.{stage}", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def until(made: Iterator[bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a file of the stage's own making."""
    deadline = time.monotonic() + 200
    while not next(made):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        os.sched_yield()


def there(root: Path, pattern: str, num: int) -> Iterator[bool]:
    while True:
        yield len(list(root.glob(pattern))) >= num


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals, *, group: bool) -> tuple[int, str]:
    """Send a signal as `kill` does, or as a terminal does to the whole group; give the status and what was said."""
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number) if group else process.send_signal(number)
    said = process.communicate(timeout=200)[1]
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive, "a worker is left"
    return process.returncode, said


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interrupted_stage_says_so_in_one_line(
    inputs: Path, tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    tracks = tmp_path / "tracks"
    process = start(tmp_path, params(inputs), "annotate", f"clips={inputs / 'clips'}", "--", f"tracks={tracks}")
    until(there(tracks, "*.npz", 2), process)
    status, said = interrupt(process, number, group=group)
    assert status == STATUS[number]
    (line,) = said.splitlines()
    assert line.startswith("interrupted during annotate: ")
    assert line.endswith(" of 40 clips are done; the next run does them all again")


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGINT, {}),
        pytest.param(signal.SIGTERM, {"workers": 2}, marks=pytest.mark.slow),
        (signal.SIGINT, {"workers": 2}),
        pytest.param(signal.SIGINT, {"workers": 2, "scheduler": "dask"}, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, {"workers": 2, "scheduler": "dask"}, marks=pytest.mark.slow),
    ],
    ids=["one process", "terminated workers", "workers", "dask", "terminated dask"],
)
def test_an_interrupted_extraction_says_where_it_goes_on_and_leaves_no_worker(
    inputs: Path, tmp_path: Path, number: signal.Signals, how: dict[str, Any]
) -> None:
    store = tmp_path / "store"
    words = [f"clips={inputs / 'clips'}", "item.backbone=tiny", "item.view=analysis", "--", f"descriptors={store}"]
    process = start(tmp_path, params(inputs, **how), "extract", *words)
    until(there(store, "*/query/c.*.0", 5), process)
    status, said = interrupt(process, number, group=number == signal.SIGINT)
    assert status == STATUS[number]
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("interrupted during extract: ")
    assert "of 40 clips are done; the next run goes on with clip-" in lines[0]


def test_a_stage_that_is_still_loading_says_so_in_one_line(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'difftrack.annotation': open(os.environ['LOADING'], 'w').close()\n"
        "sys.meta_path.insert(0, Watch())\n"
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params(inputs)))
    environment = {**os.environ, "PYTHONPATH": f"{TOP}{os.pathsep}{tmp_path}", "LOADING": str(tmp_path / "loading")}
    command = [sys.executable, "-m", "stages.annotate", f"clips={inputs / 'clips'}", "--", f"tracks={tmp_path / 't'}"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    until(there(tmp_path, "loading", 1), process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=200)[1]
    assert (process.returncode, said) == (130, "interrupted before the stage began; the next run begins anew\n")


def test_the_first_signal_raises_and_one_that_follows_at_once_does_not() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Interrupted) as raised, interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)
        assert raised.value.status == 143
        assert not isinstance(raised.value, Exception)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    with interruptible():
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_lack_of_memory_is_one_line_and_other_faults_are_none() -> None:
    line = lack_of_memory(MemoryError("Unable to allocate\n 9 TiB"))
    assert line == (
        "memory has run out (Unable to allocate 9 TiB); make the size, or the number of frames, points or workers, "
        "smaller"
    )
    assert (
        lack_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"))
        is not None
    )
    assert lack_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
