"""One call for all ways to spread clips."""

import os
from collections.abc import Iterator, Sequence
from typing import Literal

from difftrack.distribution._jobs import Job, ProgressCallback
from difftrack.distribution._processes import run_in_processes
from difftrack.distribution._serial import run_serially

__all__ = ["run_clips"]

MOST_AUTO_PROCESSES = 4
"""Without GPUs: each holds the weights in memory."""

JobOutcome = tuple[str, str | None]
"""A clip, and what went wrong with it."""


def run_clips(
    job: Job,
    clips: Sequence[str],
    *,
    workers: int | Literal["auto"] = 1,
    scheduler: str | None = None,
    report: ProgressCallback = lambda num_bytes: None,
) -> Iterator[JobOutcome]:
    """Do every clip, each by one worker.

    Files come out the same however many workers there are. A clip whose worker is lost is done again by another one,
    which finds on disk what the first has finished.

    Args:
        job: What to do.
        clips: With what.
        workers: Processes on this host, with a GPU each as far as there are GPUs; 1 works in this process. `auto`: one
            per GPU; without any, one for as many cores as torch's threads take in this process, at most 4.
        scheduler: None for that; `dask` for a Dask cluster on this host; the address of one that runs.
        report: Told of progress.

    Yields:
        Each clip as it is finished, with what went wrong or None.

    Raises:
        ValueError: Dask is wanted but not installed, or no scheduler answers.
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
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_devices() -> list[str]:
    """CUDA devices as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
