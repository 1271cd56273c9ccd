"""Ctrl-C and SIGTERM, sent to real stages: one line, the status of the signal, and no worker left."""

import importlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from typer.testing import CliRunner
from warm_python import python

from difftrack import cli
from difftrack.cli._pipeline import _in_foreground
from difftrack.datasets import Clip, write_clip, write_manifest
from difftrack.interrupts import Interrupted, failure_line, interruptible, lack_of_memory

CLIPS = [f"clip-{index}" for index in range(40)]
TOP = Path(__file__).parents[1]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small clips, so that a stage runs long enough to be interrupted."""
    root = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(CLIPS):
        frames = np.random.default_rng(seed).integers(0, 256, (11, 31, 37, 3), dtype=np.uint8)
        write_clip(root / "clips", Clip(name, frames, fps=8.0, prompt="a red disc moves", source="rendered"))
    write_manifest(root / "clips", CLIPS)
    return root


@pytest.fixture(scope="module")
def backbone(inputs: Path) -> None:
    save_cogvideox(inputs / "backbone")


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and stages that a test starts would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore this process's signal handlers after the test."""
    before = {number: signal.getsignal(number) for number in STATUS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
    command = [python(), "-m", f"stages.{stage}", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def until(made: Iterator[bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a file that the stage writes, and leave the processor to the stage meanwhile."""
    deadline = time.monotonic() + 200
    while not next(made):
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)
        assert process.returncode is None, process.communicate()[1]


def there(root: Path, pattern: str, num: int) -> Iterator[bool]:
    while True:
        yield len(list(root.glob(pattern))) >= num


def _others_in_its_folder(process: "subprocess.Popen[str]") -> Iterator[psutil.Process]:
    """Yield a stage's workers, and the stage where `process` is the program that passes its signals on."""
    folder = psutil.Process(process.pid).cwd()
    for other in psutil.process_iter():
        with suppress(psutil.Error):
            if other.pid != process.pid and other.cwd() == folder:
                yield other


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals, *, group: bool) -> tuple[int, str]:
    """Send a signal as `kill` does, or as a terminal does to the whole group; give the status and what was said."""
    below = list(_others_in_its_folder(process))
    passes_on = process.args[0] == python()  # type: ignore[index]
    assert below or not passes_on, "the stage is not found by its folder"
    for receiver in [*below, *([] if passes_on else [process])] if group else [process]:
        receiver.send_signal(number)
    said = process.communicate(timeout=200)[1]
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive, "a worker is left"
    return process.returncode, said


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow)],
    ids=["Ctrl-C", "SIGTERM"],
)
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
    assert line.endswith(" of 40 clips are done; the next run repeats all of them")


@pytest.mark.parametrize(
    ("number", "how"),
    [
        pytest.param(signal.SIGINT, {}, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, {"workers": 2}, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, {"workers": 2}, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, {"workers": 2, "scheduler": "dask"}, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, {"workers": 2, "scheduler": "dask"}, marks=pytest.mark.long),
    ],
    ids=["one process", "terminated workers", "workers", "dask", "terminated dask"],
)
@pytest.mark.usefixtures("backbone")
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
    assert len(lines) == 1 or how.get("scheduler") == "dask", said  # Dask logs how it ends
    assert not any(f'File "{TOP / room}' in said for room in ("difftrack", "stages")), said
    assert lines[-1].startswith("interrupted during extract: ")
    assert "of 40 clips are done; the next run continues with clip-" in lines[-1]


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
    line = "interrupted before the stage started; the next run starts from the beginning\n"
    assert (process.returncode, said) == (130, line)


def signal_twice() -> None:
    with interruptible():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_the_first_signal_raises_and_one_that_follows_at_once_does_not() -> None:
    with pytest.raises(Interrupted) as raised:
        signal_twice()
    assert raised.value.status == 143
    assert not isinstance(raised.value, Exception)


def test_what_signals_do_is_as_before_after_a_run_that_was_not_interrupted() -> None:
    before = [signal.getsignal(number) for number in STATUS]
    with interruptible():
        assert [signal.getsignal(number) for number in STATUS] != before
    assert [signal.getsignal(number) for number in STATUS] == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", STATUS)
def test_an_interrupted_verb_is_one_line(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setattr("difftrack.cli._stores._open_store", lambda store: signal.raise_signal(number))
    done = CliRunner().invoke(cli.app, ["verify", "store"])
    assert (done.exit_code, done.stderr) == (
        STATUS[number],
        "difftrack: interrupted during verify; the next run starts from the beginning\n",
    )


CALLING = """
import sys, typer
from difftrack.cli._app import one_line_errors
from difftrack.cli._pipeline import _call
try:
    with one_line_errors("repro"):
        _call([sys.executable, "-c", sys.argv[1]])
except typer.Exit as error:
    sys.exit(error.exit_code)
"""
CALLED = """
import signal
try:
    open("begun", "x").close()
    signal.pause()
except KeyboardInterrupt:
    open("ended", "x").close()
"""


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)])
def test_a_program_that_a_verb_runs_ends_in_order_before_the_verb(
    tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    command = [sys.executable, "-c", CALLING, CALLED]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(there(tmp_path, "begun", 1), process)
    status, said = interrupt(process, number, group=group)
    assert (tmp_path / "ended").exists()
    assert (status, said) == (
        STATUS[number],
        "difftrack: interrupted during repro; the next run continues where this one stopped\n",
    )


def test_a_console_of_windows_has_told_all_processes_of_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no foreground group, and no process there can be sent SIGINT."""
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.delattr(os, "tcgetpgrp")
    assert _in_foreground()


def test_a_lack_of_memory_is_one_line_and_other_faults_are_none() -> None:
    line = lack_of_memory(MemoryError("Unable to allocate\n 9 TiB"))
    assert line == (
        "out of memory (Unable to allocate 9 TiB); reduce the size, or the number of frames, points or workers"
    )
    assert (
        lack_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"))
        is not None
    )
    assert lack_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def raised(fail: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
        fail()
    return caught.value


def test_a_failure_of_another_library_is_one_line_with_the_way_out() -> None:
    assert failure_line(raised(lambda: importlib.metadata.version("no-such-package"))) == (
        "No package metadata was found for no-such-package; install the missing package (pip install no-such-package)"
    )
    assert failure_line(raised(lambda: importlib.import_module("no_such_module"))) == (
        "No module named 'no_such_module'; install the missing package (pip install no_such_module)"
    )
    generator = (value for value in range(3))
    line = failure_line(raised(lambda: generator.throw(RuntimeError("CUDA error:\n no kernel image"))))
    assert line is not None
    assert line.endswith(
        "failed with RuntimeError: CUDA error: no kernel image; set DIFFTRACK_TRACEBACK=1 to see the traceback"
    )
    assert (failure_line(raised(lambda: np.empty(1 << 55))) or "").startswith("out of memory")
    assert failure_line(ValueError("a\n  b")) == "a b"


@pytest.mark.parametrize("fault", [KeyError("x"), TypeError("x"), NotImplementedError("x"), RecursionError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(fault: Exception) -> None:
    assert failure_line(fault) is None


@pytest.mark.parametrize(("asked", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_stages_and_verbs_sleep_while_they_wait_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, found: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "to be put back")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if asked is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", asked)
    code = (
        "import os, sys; sys.argv = ['-m']; import stages; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=TOP, text=True)
    assert said.split() == [found, "False"]
    assert CliRunner().invoke(cli.app, ["params", "track.heads"]).exit_code == 0
    assert os.environ["OMP_WAIT_POLICY"] == found
