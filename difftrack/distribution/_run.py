"""One function for all ways to distribute clips."""

import os
from collections.abc import Iterator, Sequence
from typing import Literal

from difftrack.distribution._jobs import Job, ProgressCallback
from difftrack.distribution._processes import run_in_processes
from difftrack.distribution._serial import run_serially

__all__ = ["run_clips"]

MOST_AUTO_PROCESSES = 4
"""Maximum number of automatic processes without GPUs, because each holds the weights in memory."""

JobOutcome = tuple[str, str | None]
"""A clip, and its error message or None."""


def run_clips(
    job: Job,
    clips: Sequence[str],
    *,
    workers: int | Literal["auto"] = 1,
    scheduler: str | None = None,
    report: ProgressCallback = lambda num_bytes: None,
) -> Iterator[JobOutcome]:
    """Run every clip, each in one worker.

    The files do not depend on the number of workers. If a worker is lost, another worker reruns its clip and continues
    from the files already on disk.

    Args:
        job: The job to run.
        clips: The names of the clips.
        workers: Number of processes on this host, each with its own GPU if there are GPUs; 1 runs in this process.
            `auto` uses one process per GPU; without GPUs, the number of cores / torch's number of threads, at most 4.
        scheduler: None runs processes on this host; `dask` starts a Dask cluster on this host; otherwise the address of
            a running Dask scheduler.
        report: Called with the progress in bytes.

    Yields:
        Each finished clip, with its error message or None.

    Raises:
        ValueError: Dask is requested but not installed, or no scheduler answers.
    """
    devices = _visible_devices()
    count = (len(devices) or _processes_of_cores()) if workers == "auto" else workers
    count = min(count, max(len(clips), 1))
    if scheduler is not None:
        from difftrack.distribution._dask import run_on_dask  # an optional dependency

        return run_on_dask(job, clips, scheduler=scheduler, workers=count, devices=devices, report=report)
    if count == 1:
        return run_serially(job, clips, report=report)
    return run_in_processes(job, clips, workers=count, devices=devices, report=report)


def _processes_of_cores() -> int:
    import torch

    return min(max(_num_cores() // torch.get_num_threads(), 1), MOST_AUTO_PROCESSES)


def _num_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_devices() -> list[str]:
    """Names of the CUDA devices, as used in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
