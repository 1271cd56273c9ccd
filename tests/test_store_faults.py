"""After a killed writer, a full disk or several writers at once, resuming gives the undisturbed store."""

import errno
import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_python import python

from difftrack.store import open_store, open_writer

pytestmark = pytest.mark.slow

COMMON = """
import sys
import numpy as np
import zarr
from difftrack.geometry import TokenGrid
from difftrack.store import DescriptorSpec, create_group, open_writer

SPEC = DescriptorSpec(
    steps=(3, 17, 49), timesteps=(900.0, 500.0, 20.0), layers=(0, 4, 7, 9), heads=(0, 1, 2), num_channels=67,
    grid=TokenGrid(num_latent_frames=7, rows=11, cols=23, stride_px=8, temporal_stride=4),
    frames=(0, 4, 8, 12, 16, 20, 24), clip_size=(88, 184), size=(88, 184), kinds=("query", "key"),
    text_mask=(True,) * 19,
)

def write(writer, units):
    for step, layer in units:
        rng = np.random.default_rng([step, layer])
        shapes = {entry: SPEC.entry_shape(entry) for entry in SPEC.entries}
        writer.write(step, layer, {entry: rng.normal(size=shape).astype(np.float16) for entry, shape in shapes.items()})
        print(step, layer, flush=True)
"""

WRITE_ALL = (
    COMMON
    + """
print("ready", flush=True)
writer = create_group(sys.argv[1], "clip", SPEC)
write(writer, writer.missing())
writer.finish()
print("finished", flush=True)
"""
)

WRITE_PART = (
    COMMON
    + """
part, num_parts = int(sys.argv[2]), int(sys.argv[3])
writer = open_writer(sys.argv[1], "clip")
print("ready", flush=True)
missing = set(writer.missing())
write(writer, [unit for number, unit in enumerate(SPEC.units) if number % num_parts == part and unit in missing])
"""
)

CREATE = (
    COMMON
    + """
create_group(sys.argv[1], "clip", SPEC)
"""
)

FILL_DISK = (
    COMMON
    + """
import errno, subprocess
root, small, large = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", root], check=True)
try:
    writer = create_group(f"{root}/store", "clip", SPEC)
    write(writer, writer.missing())
except OSError as error:
    print("errno", error.errno)
subprocess.run(["mount", "-o", f"remount,size={large}", root], check=True)
writer = create_group(f"{root}/store", "clip", SPEC)
missing = writer.missing()
print("missing", len(missing))
write(writer, missing)
writer.finish()
subprocess.run(["cp", "-r", f"{root}/store", f"{root}/../copy"], check=True)
"""
)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([python(), "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.splitlines()


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    finish(start(WRITE_ALL, root))
    return digest(root)


def test_writers_killed_at_random_moments_lose_at_most_the_unit_they_were_at(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    rng = random.Random()
    kills = rounds = 0
    delays = []
    process = start(WRITE_ALL, tmp_path / "timed")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = time.perf_counter()
    process.communicate()
    duration_s = time.perf_counter() - started
    while kills < 20:
        root = tmp_path / f"store{rounds}"
        rounds += 1
        done: set[str] = set()
        finished = False
        while not finished:
            process = start(WRITE_ALL, root)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            delays.append(rng.uniform(0, duration_s))
            try:
                process.wait(timeout=delays[-1])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
            reported, _ = process.communicate()
            lines = reported.splitlines()
            finished = "finished" in lines
            assert not done & set(lines), "a unit that was done has been written again"
            done |= {line for line in lines if line != "finished"}
            if (root / "clip/zarr.json").exists():
                missing = {f"{step} {layer}" for step, layer in open_writer(root, "clip").missing()}
                assert not missing & done
        assert digest(root) == undisturbed, f"after kills at {delays}"


@pytest.mark.parametrize("num_parts", [2, 4])
def test_several_writers_give_the_same_bytes_as_one_even_if_one_is_killed(
    tmp_path: Path, undisturbed: dict[str, str], num_parts: int
) -> None:
    finish(start(CREATE, tmp_path))
    parts = [start(WRITE_PART, tmp_path, part, num_parts) for part in range(num_parts)]
    assert parts[1].stdout is not None
    parts[1].stdout.readline()
    parts[1].stdout.readline()  # one unit is written, and the writer is at the next
    parts[1].kill()
    parts[1].communicate()
    for part in (parts[0], *parts[2:]):
        finish(part)
    missing = open_writer(tmp_path, "clip").missing()
    units = open_writer(tmp_path, "clip").spec.units
    assert 0 < len(missing) < len(units) // num_parts
    assert all(units.index(unit) % num_parts == 1 for unit in missing)
    finish(start(WRITE_PART, tmp_path, 1, num_parts))
    open_writer(tmp_path, "clip").finish()
    assert digest(tmp_path) == undisturbed


def test_a_full_disk_stops_the_writer_and_loses_nothing(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*own_mounts, "mount", "-t", "tmpfs", "tmpfs", str(mount)], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {probe.stderr.decode().strip()}")
    command = [*own_mounts, sys.executable, "-c", FILL_DISK, str(mount), "6M", "64M"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout.splitlines()
    full = lines.index(f"errno {errno.ENOSPC}")
    assert full > 0, "some units were written before the disk was full"
    assert lines[full + 1] == f"missing {12 - full}"
    assert len(lines) == 12 + 2
    assert digest(tmp_path / "copy") == undisturbed


def test_an_undisturbed_store_verifies(tmp_path: Path) -> None:
    finish(start(WRITE_ALL, tmp_path))
    checks = list(open_store(tmp_path).verify())
    assert {check.path for check in checks} == {str(path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all(check.problem is None for check in checks)
