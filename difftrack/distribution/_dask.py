"""Run clips on Dask workers, with a scheduler on this host or a running scheduler anywhere (SLURM: docs/scale.md)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import torch

from difftrack.distribution._jobs import ClipWorker, Job, ProgressCallback
from difftrack.distribution._serial import attempt, problem_of
from difftrack.interrupts import shielded

__all__ = ["run_on_dask"]

CONNECT_TIMEOUT_S = 30.0


def run_on_dask(
    job: Job, clips: Sequence[str], *, scheduler: str, workers: int, devices: Sequence[str], report: ProgressCallback
) -> Iterator[tuple[str, str | None]]:
    """Run clips on Dask, see `run_clips`; if a worker is lost, Dask reruns its clip on another worker.

    Raises:
        ValueError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ValueError(
            f"scheduler {scheduler!r} needs Dask; install it with: pip install 'difftrack-video[dist]'"
        ) from error
    with ExitStack() as stack:
        with shielded():
            address = stack.enter_context(_cluster(workers, devices)) if scheduler == "dask" else scheduler
        try:
            client: Any = stack.enter_context(Client(address, timeout=CONNECT_TIMEOUT_S))  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        run = f"difftrack-{uuid4().hex}"  # runs that share a scheduler may have clips of the same name
        client.subscribe_topic(run, lambda event: report(event[1]))
        threads = torch.get_num_threads()
        futures = [client.submit(_run_clip, job, clip, threads, run, key=f"{run}-{clip}", pure=False) for clip in clips]
        clip_of = dict(zip(futures, clips, strict=True))
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            error = future.exception()
            yield clip_of[future], future.result() if error is None else f"{type(error).__name__}: {error}"


def _cluster(workers: int, devices: Sequence[str]) -> Any:  # noqa: ANN401 - distributed carries no types
    """Create a cluster on this host; if there are GPUs, each worker sees one."""
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    def options(index: int) -> dict[str, Any]:
        environment = {"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {}
        return {"nthreads": 1, "env": environment, "memory_limit": 0}

    return SpecCluster(  # type: ignore[no-untyped-call]
        workers={index: {"cls": Nanny, "options": options(index)} for index in range(workers)},
        scheduler={"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1"}},
    )


_opened: dict[Job, ClipWorker] = {}
"""The open worker of this process, kept so that weights are loaded once; at most one entry."""


def _run_clip(job: Job, clip: str, threads: int, topic: str) -> str | None:
    """Run one clip on a Dask worker and wait until it is on disk.

    Args:
        job: The job to run.
        clip: The name of the clip.
        threads: Torch's number of CPU threads. Dask limits its workers to one, and sums over another number of threads
            differ in their last bits.
        topic: The topic under which progress in bytes is reported.
    """
    from distributed import get_worker

    dask_worker = get_worker()
    torch.set_num_threads(threads)
    if job not in _opened:
        for other in _opened.values():
            other.close()
        _opened.clear()
        _opened[job] = job.open()
    return problem_of(attempt(_opened[job], clip, lambda num_bytes: dask_worker.log_event(topic, num_bytes)))
