"""Clips over the workers of a Dask scheduler: one on this host, or one that runs anywhere (SLURM: docs/scale.md)."""

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
    """See `run_clips`; Dask runs the clip of a lost worker again on another one.

    Raises:
        ValueError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ValueError(
            f"scheduler is {scheduler!r}, which needs Dask: pip install 'difftrack-video[dist]'"
        ) from error
    with ExitStack() as stack:
        with shielded():
            address = stack.enter_context(_cluster(workers, devices)) if scheduler == "dask" else scheduler
        try:
            client: Any = stack.enter_context(Client(address, timeout=CONNECT_TIMEOUT_S))  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        run = f"difftrack-{uuid4().hex}"  # several runs may share a scheduler, and clips their names
        client.subscribe_topic(run, lambda event: report(event[1]))
        threads = torch.get_num_threads()
        futures = [client.submit(_do, job, clip, threads, run, key=f"{run}-{clip}", pure=False) for clip in clips]
        clip_of = dict(zip(futures, clips, strict=True))
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            error = future.exception()
            yield clip_of[future], future.result() if error is None else f"{type(error).__name__}: {error}"


def _cluster(workers: int, devices: Sequence[str]) -> Any:  # noqa: ANN401 - distributed carries no types
    """A cluster on this host; each worker sees one GPU, as far as there are GPUs."""
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
"""The worker of this process, so that weights are loaded once; at most one."""


def _do(job: Job, clip: str, threads: int, topic: str) -> str | None:
    """Do one clip on a Dask worker, to its end.

    Args:
        job: What to do.
        clip: With what.
        threads: Of torch on a CPU; Dask allows its workers one, and sums over another number differ in their last bits.
        topic: Under which to report bytes.
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
