"""One writer at a time, tested with real processes that stop at a given line: no sleeping, no luck."""

import inspect
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_store import content_of, make_values, tiny_spec, write_all

from difftrack import locks
from difftrack.locks import LockError, lock_of
from difftrack.store import (
    DescriptorSpec,
    StoreError,
    create_group,
    keep_groups,
    open_store,
    remove_group,
    write_results,
)
from difftrack.store._filesystem import open_files
from difftrack.store._locks import RemoteLease

pytestmark = pytest.mark.timeout(60)

HOLD = """
import socket, sys, threading
from pathlib import Path
from difftrack import locks
path, lease_s, *elsewhere = sys.argv[1:]
locks.LEASE_S = float(lease_s)
if elsewhere:
    socket.gethostname = lambda: elsewhere[0]
lock = locks.lock_of(Path(path)).acquire(wait_s=60, say=lambda line: print(line, flush=True))
print("held", flush=True)
sys.stdin.readline()
try:
    while True:
        lock.check()
        if not elsewhere:
            break
        threading.Event().wait(0.01)  # until its renewals have noticed
except locks.LockError as error:
    print(error, flush=True)
lock.release()
print("released", flush=True)
"""


def values_of(spec: DescriptorSpec, seed: int, unit: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, *unit])
    return {entry: rng.normal(size=spec.entry_shape(entry)).astype(np.float16) for entry in spec.entries}


WRITE = f"""
import json, sys
import numpy as np
from difftrack.store import DescriptorSpec, create_group
{inspect.getsource(values_of)}
root, spec, seed = sys.argv[1], DescriptorSpec.from_json(json.loads(sys.argv[2])), int(sys.argv[3])
writer = create_group(root, "clip", spec, replace=True, wait_s=60, say=lambda line: print(line, flush=True))
missing = writer.missing()
print("missing", len(missing), flush=True)
for unit in missing:
    sys.stdin.readline()
    writer.write(*unit, values_of(spec, seed, unit))
    print("wrote", *unit, flush=True)
writer.finish()
print("finished", flush=True)
"""

SPEC = json.dumps(tiny_spec().to_json())

STAGE = """
import sys
from difftrack.pipeline._stage import run
def main(params, deps, outs):
    print("in", flush=True)
    sys.stdin.readline()
    outs["out"].write_text("done")
run("score", main)
"""


@contextmanager
def started(program: str, *arguments: object, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=cwd) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def go_on(process: subprocess.Popen[str], times: int = 1) -> None:
    assert process.stdin is not None
    process.stdin.write("\n" * times)
    process.stdin.flush()


def test_a_second_process_is_told_who_works_there_waits_and_has_its_turn(tmp_path: Path) -> None:
    with started(HOLD, tmp_path / "clips", 60) as first:
        assert line(first) == "held"
        with pytest.raises(LockError, match=rf"clips is being written by process {first.pid} on .*`.*python.* -c .*"):
            lock_of(tmp_path / "clips").acquire()
        with started(HOLD, tmp_path / "clips", 60) as second:
            said = line(second)
            assert f"is being written by process {first.pid} on " in said
            assert said.endswith("; waiting for it to finish")
            go_on(first)
            assert line(first) == "released"
            assert line(second) == "held"
            go_on(second)
            assert line(second) == "released"
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_recovered_at_once_and_said(tmp_path: Path) -> None:
    with started(HOLD, tmp_path / "clips", 60) as first:
        assert line(first) == "held"
        first.kill()
        first.wait()
        said: list[str] = []
        with lock_of(tmp_path / "clips").acquire(wait_s=10.0, say=said.append) as lock:
            lock.check()
        assert f"recovered the lock of process {first.pid} on " in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_host_is_taken_over_once_it_is_not_renewed_and_that_host_learns_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 0.3)
    with started(HOLD, tmp_path / "clips", 0.3, "elsewhere") as first:
        assert line(first) == "held"
        with pytest.raises(LockError, match="on elsewhere"):
            lock_of(tmp_path / "clips").acquire(wait_s=1.0)  # three times its lease, and it has been renewed
        first.send_signal(signal.SIGSTOP)
        said: list[str] = []
        with lock_of(tmp_path / "clips").acquire(wait_s=30.0, say=said.append) as lock:
            assert "recovered the lock of process" in said[-1]
            first.send_signal(signal.SIGCONT)
            go_on(first)
            assert "clips was taken over by process" in line(first)
            assert line(first) == "released"
            lock.check()
    assert list(tmp_path.iterdir()) == []


def test_threads_of_a_process_share_a_lock_and_the_last_lets_go(tmp_path: Path) -> None:
    outer, inner = lock_of(tmp_path / "clips").acquire(), lock_of(tmp_path / "clips")
    thread = threading.Thread(target=lambda: inner.acquire().release())
    thread.start()
    thread.join()
    outer.check()
    assert (tmp_path / ".locks").is_dir()
    outer.release()
    outer.release()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LockError, match="was taken over by another process"):
        outer.check()


@pytest.mark.parametrize("channels", [7, 11])
def test_two_writers_of_one_group_never_mix(tmp_path: Path, channels: int) -> None:
    root, wanted = tmp_path / "store", json.dumps(tiny_spec(num_channels=channels).to_json())
    with ExitStack() as stack:
        first = stack.enter_context(started(WRITE, root, SPEC, 1))
        assert line(first) == "missing 3"
        second = stack.enter_context(started(WRITE, root, wanted, 2))
        go_on(first)
        assert line(first) == "wrote 3 0"
        assert f"clip is being written by process {first.pid} on " in line(second)
        go_on(first, 2)
        assert [line(first) for _ in range(3)] == ["wrote 3 4", "wrote 3 7", "finished"]
        same = channels == 7
        assert line(second) == ("missing 0" if same else "missing 3")
        go_on(second, 3)
        rest = [line(second) for _ in range(1 if same else 4)]
        assert rest[-1] == "finished"
    assert [check for check in open_store(root).verify() if check.problem] == []
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_a_killed_writer_leaves_a_group_that_the_next_one_completes(tmp_path: Path) -> None:
    with started(WRITE, tmp_path, SPEC, 0) as first:
        assert line(first) == "missing 3"
        go_on(first)
        assert line(first) == "wrote 3 0"
        with pytest.raises(StoreError, match=rf"clip is being written by process {first.pid} on .*; wait until"):
            create_group(tmp_path, "clip", tiny_spec())
        with pytest.raises(StoreError, match="is being written by"):
            keep_groups(tmp_path, [])
        with pytest.raises(StoreError, match="is being written by"):
            remove_group(tmp_path, "")
        write_all(tmp_path, "other", tiny_spec())
        first.kill()
        first.wait()
    said: list[str] = []
    with create_group(tmp_path, "clip", tiny_spec(), say=said.append) as writer:
        assert writer.missing() == [(3, 4), (3, 7)]
        for unit in writer.missing():
            writer.write(*unit, values_of(tiny_spec(), 0, unit))
        writer.finish()
    assert "recovered the lock of process" in said[-1]
    undisturbed = create_group(tmp_path / "undisturbed", "clip", tiny_spec())
    for unit in tiny_spec().units:
        undisturbed.write(*unit, values_of(tiny_spec(), 0, unit))
    undisturbed.finish()
    assert content_of(tmp_path / "clip") == content_of(tmp_path / "undisturbed/clip")


def test_a_writer_that_is_closed_or_forgotten_lets_go(tmp_path: Path) -> None:
    writer = create_group(tmp_path, "clip", tiny_spec())
    assert (tmp_path / ".locks/clip.lock").exists()
    writer.close()
    writer.close()
    assert not (tmp_path / ".locks").exists()
    assert create_group(tmp_path, "clip", tiny_spec()).missing()
    assert not (tmp_path / ".locks").exists()


def test_a_writer_whose_group_was_made_anew_meanwhile_does_not_declare_it_whole(tmp_path: Path) -> None:
    spec, values = tiny_spec(), make_values(tiny_spec())
    late = create_group(tmp_path, "clip", spec)
    for unit in spec.units:
        late.write(*unit, values[unit])
    late.close()  # its lock now belongs to another process
    write_all(tmp_path, "clip", tiny_spec(fingerprint_parts={"a": 1}), replace=True)
    sound = content_of(tmp_path)
    with pytest.raises(StoreError, match=r"was taken over by another process; run again after it has finished"):
        late.finish()
    assert content_of(tmp_path) == sound


def test_two_stages_that_write_one_folder_take_turns(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("score: {}")
    command = (STAGE, "--", f"out={tmp_path / 'out'}")
    with started(*command, cwd=tmp_path) as first:
        assert line(first) == "in"
        with started(*command, cwd=tmp_path) as second:
            assert line(second).startswith(f"score: {tmp_path / 'out'} is being written by process {first.pid} on ")
            go_on(first)
            assert line(second) == "in"
            go_on(second)
            assert second.wait() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "out"}


# Behind a URL


def test_a_lock_behind_a_url_has_one_holder_and_one_heir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = open_files(f"memory://{tmp_path.name}-locks")
    first, second, third = (RemoteLease(files, ".locks/clip.lock") for _ in range(3))
    assert first.try_acquire()
    assert not second.try_acquire()
    assert second.owner == first.owner
    monkeypatch.setattr(locks, "LEASE_S", 0.0)  # not renewed in time
    claim = f".locks/clip.lock.{first._token}"
    assert files.create(claim, b"third is at it")
    assert not second.try_acquire()
    files.remove_file(claim)
    assert second.try_acquire()
    assert second.left_by is not None
    first.release()
    assert files.read([".locks/clip.lock"]), "it is the second's"
    second.release()
    assert files.read([".locks/clip.lock"]) == {}
    assert third.try_acquire()
    third.release()


def test_a_renewal_under_way_does_not_bring_a_released_lock_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = open_files(f"memory://{tmp_path.name}-renewed")
    renewing, go_ahead, write = threading.Event(), threading.Event(), files.write

    def slow_write(key: str, *parts: bytes) -> None:
        renewing.set()
        go_ahead.wait()
        write(key, *parts)

    monkeypatch.setattr(locks, "LEASE_S", 0.03)
    monkeypatch.setattr(files, "write", slow_write)
    lease = RemoteLease(files, ".locks/clip.lock")
    assert lease.try_acquire()
    renewing.wait()
    releasing = threading.Thread(target=lease.release)
    releasing.start()
    releasing.join(0.2)  # it must not end before the renewal
    go_ahead.set()
    for thread in (releasing, *(thread for thread in threading.enumerate() if thread.name == "lease .locks/clip.lock")):
        thread.join()
    assert files.read([".locks/clip.lock"]) == {}


def test_a_late_writer_behind_a_url_is_seen_though_no_lock_kept_it(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}-late"
    spec, values = tiny_spec(), make_values(tiny_spec())
    write_all(url, "clip", spec)
    unaware = create_group(f"memory://{tmp_path.name}-elsewhere", "clip", spec)
    unaware._files, unaware._group = open_files(url), "clip"
    unaware.write(3, 4, make_values(spec, seed=1)[3, 4])
    assert [check.problem for check in open_store(url).verify() if check.problem] == [
        "is damaged: it is not the unit that was written here"
    ] * len(spec.entries)
    with pytest.raises(StoreError, match="not the unit that was written here"):
        open_store(url).sel(clip="clip", step=3, layer=4, kind="query")
    assert create_group(url, "clip", spec).missing() == [(3, 4)]
    read = open_store(url).sel(clip="clip", step=3, layer=7, kind="query")
    np.testing.assert_array_equal(read, values[3, 7]["query"])


def test_results_that_another_process_writes_are_waited_for(tmp_path: Path) -> None:
    from test_store import make_results

    with started(HOLD, tmp_path / "x", 60) as first:  # its lock stands for the group's
        assert line(first) == "held"
        (tmp_path / "store/.locks").mkdir(parents=True)
        for suffix in ("lock", "json"):
            (tmp_path / f".locks/x.{suffix}").rename(tmp_path / f"store/.locks/clip.{suffix}")
        done = threading.Event()
        thread = threading.Thread(
            target=lambda: (write_results(tmp_path / "store", "clip", make_results()), done.set())
        )
        thread.start()
        assert not done.wait(0.3)
        first.kill()
        first.wait()
        thread.join(30)
        assert done.is_set()
