"""Clips spread over parts, processes and Dask, with jobs that only write a file per clip."""

import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warm_python import python

from difftrack.distribution import ClipWorker, Job, PartError, ProgressCallback, part_of, run_clips

CLIPS = ["a", "b", "c", "d", "e", "f", "g"]


@dataclass(frozen=True)
class WriteNames(Job, ClipWorker):
    """Write, for each clip, the process and the GPU that it saw; `bad` fails, `deadly` kills its process."""

    folder: Path
    bad: str = ""
    deadly: str = ""
    deaths: int = 1

    def open(self) -> "WriteNames":
        (self.folder / f"opened-{os.getpid()}").touch()
        return self

    def expect(self, clip: str) -> None:
        (self.folder / f"expected-{clip}").write_text(f"{os.getpid()} {(self.folder / clip).exists()}")

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        if clip == self.bad:
            raise ValueError(f"{clip} is bad")
        if clip == self.deadly and len(list(self.folder.glob("death-*"))) < self.deaths:
            (self.folder / f"death-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        report(len(clip))
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(self._write, clip)

    def _write(self, clip: str) -> None:
        (self.folder / clip).write_text(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")

    def close(self) -> None:
        (self.folder / f"closed-{os.getpid()}").touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_hears_which_clip_comes_next_before_that_is_its_turn(tmp_path: Path, workers: int) -> None:
    list(run_clips(WriteNames(tmp_path), CLIPS, workers=workers, report=lambda num_bytes: None))
    heard = {file.name.removeprefix("expected-"): file.read_text().split() for file in tmp_path.glob("expected-*")}
    if workers == 1:
        assert sorted(heard) == CLIPS[1:]
    for clip, (process, done) in heard.items():
        assert (process, done) == ((tmp_path / clip).read_text().split()[0], "False")


@given(st.integers(0, 30), st.integers(1, 9))
def test_parts_are_disjoint_complete_and_of_like_size(num_clips: int, count: int) -> None:
    clips = [f"clip{index}" for index in range(num_clips)]
    parts = [part_of(clips, f"{index}/{count}") for index in range(1, count + 1)]
    assert sorted(clip for part in parts for clip in part) == sorted(clips)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part_of(clips, None) == clips


@pytest.mark.parametrize("part", ["0/4", "5/4", "1", "1/0", "-1/4", "one/4", ""])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(PartError, match="must be i/n with 1 <= i <= n, such as 1/4"):
        part_of(CLIPS, part)


def outcomes(job: WriteNames, clips: Sequence[str] = CLIPS, **how: object) -> tuple[dict[str, str | None], int]:
    reported: list[int] = []
    done = list(run_clips(job, clips, report=reported.append, **how))
    assert sorted(clip for clip, _ in done) == sorted(clips), "each clip is reported once"
    return dict(done), sum(reported)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_clip_is_done_once_and_a_bad_one_is_named(tmp_path: Path, workers: int) -> None:
    done, num_bytes = outcomes(WriteNames(tmp_path, bad="c"), workers=workers)
    assert {clip: problem for clip, problem in done.items() if problem} == {"c": "c is bad"}
    assert num_bytes == len(CLIPS) - 1
    opened, closed = ({file.name.split("-")[1] for file in tmp_path.glob(f"{word}-*")} for word in ("opened", "closed"))
    assert len(opened) == workers, "weights are loaded once per worker"
    assert opened == closed
    assert {(tmp_path / clip).read_text().split()[0] for clip in set(CLIPS) - {"c"}} <= opened


def test_a_lost_worker_is_replaced_and_its_clips_are_done_by_others(tmp_path: Path) -> None:
    done, _ = outcomes(WriteNames(tmp_path, deadly="c"), workers=2)
    assert set(done.values()) == {None}
    assert len(list(tmp_path.glob("opened-*"))) == 3


def test_a_clip_that_kills_every_worker_is_given_up_and_takes_no_other_with_it(tmp_path: Path) -> None:
    done, _ = outcomes(WriteNames(tmp_path, deadly="a", deaths=99), workers=2)
    assert {clip for clip, problem in done.items() if problem} == {"a"}
    assert "3 workers died while running it, the last with status -9" in str(done["a"])


@dataclass(frozen=True)
class CannotBegin(WriteNames):
    """A cluster in which all processes, or only the first, cannot load what they need."""

    first_alone: bool = False

    def open(self) -> "CannotBegin":
        (self.folder / f"tried-{os.getpid()}").touch()
        if not self.first_alone or os.environ["CUDA_VISIBLE_DEVICES"] == "3":
            raise RuntimeError("CUDA error: out of memory")
        return self


def test_workers_that_cannot_begin_are_not_started_again_and_say_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no worker could start; the last worker's error: RuntimeError: CUDA error"):
        outcomes(CannotBegin(tmp_path), workers=2)
    assert len(list(tmp_path.glob("tried-*"))) == 2


def test_the_clips_of_a_worker_that_cannot_begin_are_done_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    done, _ = outcomes(CannotBegin(tmp_path, first_alone=True), workers="auto")
    assert set(done.values()) == {None}
    assert len(list(tmp_path.glob("tried-*"))) == 2


def test_each_worker_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    outcomes(WriteNames(tmp_path), workers="auto")
    seen = {tuple((tmp_path / clip).read_text().split()) for clip in CLIPS}
    assert {device for _, device in seen} == {"3", "GPU-5"}
    assert len(seen) == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-5"


def test_a_fault_of_the_program_is_not_hidden_as_a_bad_clip(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        outcomes(WriteNames(tmp_path / "nowhere"))


DASK = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_distribution import CLIPS, WriteNames, outcomes
if __name__ == "__main__":
    done, num_bytes = outcomes(WriteNames(Path(sys.argv[2]), bad="c", deadly="e"), workers=2, scheduler="dask")
    assert {clip for clip, problem in done.items() if problem} == {"c"}, done
    assert num_bytes >= 1
"""


@pytest.mark.slow
def test_dask_does_the_same_and_survives_a_lost_worker(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    command = [python(), "-c", DASK, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {clip for clip in CLIPS if (tmp_path / clip).exists()} == set(CLIPS) - {"c"}


SHARED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from distributed import LocalCluster
from difftrack.distribution import run_clips
from test_distribution import WriteNames
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        jobs = [WriteNames(Path(sys.argv[2]) / name) for name in ("analysis", "tracking")]
        runs = [run_clips(job, ["a", "b"], scheduler=cluster.scheduler_address) for job in jobs]
        assert next(runs[0])[1] is None  # its client holds on to what is done while the other run begins
        for run in reversed(runs):
            assert {problem for _, problem in run} == {None}
"""


@pytest.mark.slow
def test_runs_that_share_a_scheduler_do_not_take_each_other_s_clips_for_done(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    for name in ("analysis", "tracking"):
        (tmp_path / name).mkdir()
    command = [python(), "-c", SHARED, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("analysis", "tracking"):
        assert {clip for clip in CLIPS if (tmp_path / name / clip).exists()} == {"a", "b"}


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("difftrack.distribution._dask.CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(run_clips(WriteNames(tmp_path), CLIPS, scheduler="tcp://127.0.0.1:9"))
