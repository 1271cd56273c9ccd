"""Where the first run's time goes: CPU seconds and wall time of every stage, and what they are spent on.

    python -m benchmarks.first_run                      the commit that is checked out
    python -m benchmarks.first_run 4926d72 HEAD         two commits, one after the other, in one run

Each commit is checked out into a separate worktree, where `dvc repro` runs its pipeline from nothing with this
interpreter and its libraries; installation is not included. Results go to `--out` as JSON, and to the terminal as a
table. The machine should be idle: CPU seconds are steadier than wall time, but they also grow beside other work.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[1]
COLUMNS = ("imports", "backbone", "autoencoder", "matching", "store", "video files")
"""The shares that the hook counts; see `benchmarks/profiling/sitecustomize.py`."""


def main() -> None:
    """Measure the commits that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", default=["HEAD"], help="what git calls them")
    parser.add_argument("--out", type=Path, default=TOP / "benchmarks" / "results" / "first_run.json")
    parser.add_argument("--stages", nargs="*", default=[], help="only these, and what they need: dvc's names")
    given = parser.parse_args()
    runs = {commit: measured(commit, given.stages) for commit in given.commits}
    for commit, run in runs.items():
        print(f"\n{commit} ({run['revision'][:9]}): {run['cpu_s']:.0f} CPU s, {run['wall_s']:.0f} s\n\n{table(run)}")
    first, *others = runs.items()
    for commit, run in others:
        print(f"\n{commit}: {run['cpu_s'] / first[1]['cpu_s']:.0%} of the CPU seconds of {first[0]}")
    given.out.write_text(json.dumps({**machine(), "runs": runs}, indent=1) + "\n")


def measured(commit: str, stages: Sequence[str]) -> dict[str, Any]:
    """Run the pipeline of one commit from nothing.

    Raises:
        CalledProcessError: git does not know the commit, or its pipeline fails.
    """
    revision = subprocess.check_output(["git", "rev-parse", commit], cwd=TOP, text=True).strip()
    with tempfile.TemporaryDirectory(prefix="first-run-") as folder:
        checkout, records = Path(folder) / "checkout", Path(folder) / "records"
        records.mkdir()
        subprocess.check_call(["git", "worktree", "add", "--quiet", "--detach", str(checkout), revision], cwd=TOP)
        try:
            begun = time.time()
            subprocess.check_call([sys.executable, "-m", "dvc", "repro", *stages], cwd=checkout, env=watched(records))
            wall_s = time.time() - begun
        finally:
            subprocess.check_call(["git", "worktree", "remove", "--force", str(checkout)], cwd=TOP)
        processes = processes_of([json.loads(file.read_text()) for file in records.glob("*.json")])
    cpu_s = sum(process["cpu_s"] for process in processes)
    return {"revision": revision, "cpu_s": cpu_s, "wall_s": wall_s, "processes": processes}


def watched(records: Path) -> dict[str, str]:
    """The environment of every measured process, in which `python` is this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    hook = str(TOP / "benchmarks" / "profiling")
    return {**os.environ, "PATH": path, "PYTHONPATH": hook, "DVC_NO_ANALYTICS": "1", "DIFFTRACK_PROFILE": str(records)}


def processes_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Processes in the order of their start, named by what they run: a stage and its cell, or DVC."""
    ordered = sorted(records, key=lambda record: record["begun"])
    return [
        {
            "name": name_of(record["command"]),
            "cpu_s": record["cpu_s"],
            "wall_s": record["wall_s"],
            "shares_s": dict(record["shares_s"]),
        }
        for record in ordered
    ]


def name_of(command: Sequence[str]) -> str:
    """`extract tracking` for `-m stages.extract ... item.view=tracking ...`; `dvc` for every other command."""
    stage = next((word.removeprefix("stages.") for word in command if word.startswith("stages.")), "dvc")
    views = [word.partition("=")[2] for word in command if word.startswith("item.view=")]
    return " ".join([stage, *views])


def table(run: Mapping[str, Any]) -> str:
    """One row for each process and one for all, in Markdown; CPU seconds, the wall time beside them."""
    rows = [[process["name"], process["cpu_s"], process["wall_s"], *shares(process)] for process in run["processes"]]
    total = ["all", *(sum(row[column] for row in rows) for column in range(1, len(COLUMNS) + 4))]
    total[2] = run["wall_s"]  # DVC waits for the stages, which count their own seconds
    head = ["", "CPU s", "wall s", *COLUMNS, "rest"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[row[0], *(f"{value:.1f}" for value in row[1:])] for row in [*rows, total]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shares(process: Mapping[str, Any]) -> list[float]:
    """CPU seconds in the order of COLUMNS, and the rest."""
    found = [process["shares_s"].get(column, 0.0) for column in COLUMNS]
    return [*found, process["cpu_s"] - sum(found)]


def machine() -> dict[str, Any]:
    """Describe the machine and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in about.get("flags", "").split() if flag in ("avx2", "avx512f", "avx512_bf16")]
    return {
        "processor": about.get("model name", platform.machine()),
        "flags": flags,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy", "zarr", "dvc")},
        "date": datetime.now(UTC).date().isoformat(),
    }


if __name__ == "__main__":
    main()
