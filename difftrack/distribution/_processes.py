"""Run clips in processes on this host, using only the standard library."""

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from difftrack.distribution._jobs import EXPECTED, Job, ProgressCallback
from difftrack.distribution._serial import attempt, problem_of
from difftrack.interrupts import Interrupted, heed_sigterm, interruptible, shielded

__all__ = ["run_in_processes"]

AHEAD = 2
"""Number of clips assigned to a worker: one being computed, and the next, so that the worker never waits."""

STOPPED_AFTER_S = 30.0
"""Seconds that a stopped worker has to finish its current operation before it is killed."""

ATTEMPTS = 3
"""Number of workers that may die with a clip before the clip counts as failed; the clip may be the cause."""


@dataclass(frozen=True, slots=True)
class _NotOpened:
    """Sent by a worker that could not open its job. It is not replaced, because a new one would fail the same way."""

    problem: str


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    device: str | None
    clips: list[str] = field(default_factory=list)
    """Clips assigned to the worker and not yet finished."""


def run_in_processes(
    job: Job, clips: Sequence[str], *, workers: int, devices: Sequence[str], report: ProgressCallback
) -> Iterator[tuple[str, str | None]]:
    """Run clips, see `run_clips`: free workers get the next clip; a lost worker is replaced and its clips rerun."""
    waiting, attempts = deque(clips), Counter[str]()
    pool = [_start(job, devices[index % len(devices)] if devices else None) for index in range(workers)]
    try:
        while waiting or any(worker.clips for worker in pool):
            for _ in range(AHEAD):  # every worker gets one clip before any worker gets a second
                for worker in pool:
                    if waiting and _has_room(worker, waiting[0], attempts):
                        _send_clip(worker, waiting.popleft())
            ready = wait([worker.connection for worker in pool])
            for worker in [worker for worker in pool if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    pool.remove(worker)
                    yield from _requeue(worker, waiting, attempts)
                    if waiting:
                        pool.append(_start(job, worker.device))
                    continue
                if isinstance(message, int):
                    report(message)
                elif isinstance(message, _NotOpened):
                    pool.remove(worker)
                    waiting.extendleft(reversed(worker.clips))
                    worker.process.join()
                    if not pool:
                        raise ValueError(f"no worker could start; the last worker's error: {message.problem}")
                else:
                    worker.clips.remove(message[0])
                    yield message
    finally:
        _stop(pool)


def _start(job: Job, device: str | None) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_worker, args=(job, theirs), daemon=True)
    with _environment("CUDA_VISIBLE_DEVICES", device), shielded(also_from_sigterm=True):
        process.start()
    theirs.close()
    return _Worker(process, ours, device)


def _has_room(worker: _Worker, clip: str, attempts: Counter[str]) -> bool:
    """Whether the worker can take a clip. A clip that was held by a lost worker is run without a second clip."""
    alone = any(attempts[held] for held in (*worker.clips, clip))
    return len(worker.clips) < (1 if alone else AHEAD)


def _send_clip(worker: _Worker, clip: str) -> None:
    worker.clips.append(clip)
    with suppress(OSError):  # the worker died; `recv` raises, and the clip is returned to the queue
        worker.connection.send(clip)


def _requeue(worker: _Worker, waiting: deque[str], attempts: Counter[str]) -> Iterator[tuple[str, str | None]]:
    """Return the clips of a lost worker to the front of the queue; clips out of attempts have failed."""
    worker.process.join()
    for clip in reversed(worker.clips):
        attempts[clip] += 1
        if attempts[clip] < ATTEMPTS:
            waiting.appendleft(clip)
        else:
            yield clip, f"{ATTEMPTS} workers died while running it, the last with status {worker.process.exitcode}"


def _stop(pool: Sequence[_Worker]) -> None:
    """Let idle workers end by themselves; terminate the others, which are busy only after an error or an interrupt."""
    for worker in pool:
        if worker.clips:
            worker.process.terminate()
        else:
            with suppress(OSError):
                worker.connection.send(None)
    for worker in pool:
        worker.process.join(STOPPED_AFTER_S if worker.clips else None)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _run_worker(job: Job, connection: Connection) -> None:
    """Run a worker process until all clips are done or the process is told to stop."""
    with suppress(Interrupted), interruptible():
        heed_sigterm()
        _serve(job, connection)


def _serve(job: Job, connection: Connection) -> None:
    """Run the received clips until None is received; send the bytes done and the clips finished."""
    sending = threading.Lock()

    def send(message: int | tuple[str, str | None]) -> None:
        with sending:
            connection.send(message)

    def finished(clip: str, done: Future[None]) -> None:
        try:
            send((clip, problem_of(done)))
        except Exception:
            os._exit(1)  # an exception in a writer's thread would be lost; the parent notices that the process ended

    try:
        opened = job.open()
    except Exception as error:
        connection.send(_NotOpened(str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"))
        return
    with closing(opened) as worker:
        for clip in _received_clips(connection, worker.expect):
            done = attempt(worker, clip, send)
            done.add_done_callback(lambda done, clip=clip: finished(clip, done))


def _received_clips(connection: Connection, expect: Callable[[str], None]) -> Iterator[str]:
    """Yield received clips until None is received; announce the next clip if it has already arrived."""

    def receive() -> str | None:
        try:
            clip: str | None = connection.recv()
        except (EOFError, OSError):  # the parent process is gone
            return None
        return clip

    clip = receive()
    while clip is not None:
        waiting = connection.poll()
        following = receive() if waiting else None
        if following is not None:
            expect(following)
        yield clip
        clip = following if waiting else receive()


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for processes started inside this context."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
