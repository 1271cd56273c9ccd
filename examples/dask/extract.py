"""Extract the descriptors of params.yaml on a Dask cluster: one on this machine, or one of SLURM jobs.

python examples/dask/extract.py --workers 2
python examples/dask/extract.py --workers 16 --slurm        # needs dask-jobqueue

Run it in a checkout or in a workspace of `difftrack init`, after `dvc repro synthesize`.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


def main(backbone: str, view: str, *, workers: int, slurm: bool) -> int:
    """Start a cluster and run the stage `extract` on it.

    Args:
        backbone: A name under `backbones` of params.yaml.
        view: `analysis` or `tracking`.
        workers: Number of workers, each with a GPU of its own where there are GPUs.
        slurm: Submit the workers as SLURM jobs instead of starting them here.

    Returns:
        The exit status of the stage.
    """
    with _cluster(workers, slurm=slurm) as cluster:
        params = Path("params.yaml")
        before = params.read_text(encoding="utf-8")
        values = yaml.safe_load(before)
        values["extract"]["scheduler"] = cluster.scheduler_address
        params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        try:
            return subprocess.run(
                [
                    *(sys.executable, "-m", "difftrack.pipeline", "extract", "clips=data/clips"),
                    *(f"item.backbone={backbone}", f"item.view={view}", "--"),
                    f"descriptors=data/descriptors/{backbone}/{view}",
                ],
                check=False,
            ).returncode
        finally:
            params.write_text(before, encoding="utf-8")


def _cluster(workers: int, *, slurm: bool) -> Any:
    if slurm:
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(cores=1, processes=1, memory="64GB", job_extra_directives=["--gres=gpu:1"])
        cluster.scale(jobs=workers)
        return cluster
    from dask.distributed import LocalCluster

    return LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="cogvideox-mini")
    parser.add_argument("view", nargs="?", default="analysis", choices=("analysis", "tracking"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slurm", action="store_true", help="submit the workers as SLURM jobs")
    given = parser.parse_args()
    sys.exit(main(given.backbone, given.view, workers=given.workers, slurm=given.slurm))
