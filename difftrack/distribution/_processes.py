"""Clips over processes of this host, with nothing but the standard library."""

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
"""Clips that a worker holds: one being computed, and one so that it never waits for the next."""

STOPPED_AFTER_S = 30.0
"""A worker that is told to stop finishes the operation under way, and is killed if that takes longer."""

ATTEMPTS = 3
"""Workers that a clip may cost before it counts as failed: it may be what kills them."""


@dataclass(frozen=True, slots=True)
class _NotOpened:
    """What a worker says that could not open its job: another one on the same device would fare no better."""

    problem: str


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    device: str | None
    clips: list[str] = field(default_factory=list)
    """Handed to it and not yet finished."""


def run_in_processes(
    job: Job, clips: Sequence[str], *, workers: int, devices: Sequence[str], report: ProgressCallback
) -> Iterator[tuple[str, str | None]]:
    """See `run_clips`: clips go to whoever is free; a lost worker is replaced and its clips are handed out again."""
    waiting, attempts = deque(clips), Counter[str]()
    pool = [_start(job, devices[index % len(devices)] if devices else None) for index in range(workers)]
    try:
        while waiting or any(worker.clips for worker in pool):
            for _ in range(AHEAD):  # one each before anybody's second
                for worker in pool:
                    if waiting and _has_room(worker, waiting[0], attempts):
                        _hand(worker, waiting.popleft())
            ready = wait([worker.connection for worker in pool])
            for worker in [worker for worker in pool if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    pool.remove(worker)
                    yield from _give_back(worker, waiting, attempts)
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
                        raise ValueError(f"no worker could begin; the last one says: {message.problem}")
                else:
                    worker.clips.remove(message[0])
                    yield message
    finally:
        _stop(pool)


def _start(job: Job, device: str | None) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs), daemon=True)
    with _environment("CUDA_VISIBLE_DEVICES", device), shielded(also_from_sigterm=True):
        process.start()
    theirs.close()
    return _Worker(process, ours, device)


def _has_room(worker: _Worker, clip: str, attempts: Counter[str]) -> bool:
    """Whether to hand a clip over; one that may have cost a worker before is alone with the next."""
    alone = any(attempts[held] for held in (*worker.clips, clip))
    return len(worker.clips) < (1 if alone else AHEAD)


def _hand(worker: _Worker, clip: str) -> None:
    worker.clips.append(clip)
    with suppress(OSError):  # it died; `recv` will say so, and the clip is given back
        worker.connection.send(clip)


def _give_back(worker: _Worker, waiting: deque[str], attempts: Counter[str]) -> Iterator[tuple[str, str | None]]:
    """Put the clips of a lost worker in front again, but for those that have cost too many."""
    worker.process.join()
    for clip in reversed(worker.clips):
        attempts[clip] += 1
        if attempts[clip] < ATTEMPTS:
            waiting.appendleft(clip)
        else:
            yield clip, f"{ATTEMPTS} workers ended while they held it, the last with status {worker.process.exitcode}"


def _stop(pool: Sequence[_Worker]) -> None:
    """Let idle workers end by themselves; stop the others, which is where an error or an interrupt has led."""
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


def _work(job: Job, connection: Connection) -> None:
    """A worker process, until it has done all or is told to stop."""
    with suppress(Interrupted), interruptible():
        heed_sigterm()
        _serve(job, connection)


def _serve(job: Job, connection: Connection) -> None:
    """Receive clips until None comes; send bytes done and clips finished."""
    sending = threading.Lock()

    def send(message: int | tuple[str, str | None]) -> None:
        with sending:
            connection.send(message)

    def finished(clip: str, done: Future[None]) -> None:
        try:
            send((clip, problem_of(done)))
        except Exception:
            os._exit(1)  # in a writer's thread, where raising would reach nobody; the parent sees the worker end

    try:
        opened = job.open()
    except Exception as error:
        connection.send(_NotOpened(str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"))
        return
    with closing(opened) as worker:
        for clip in _handed(connection, worker.expect):
            done = attempt(worker, clip, send)
            done.add_done_callback(lambda done, clip=clip: finished(clip, done))


def _handed(connection: Connection, expect: Callable[[str], None]) -> Iterator[str]:
    """Clips as they come, until None comes; one that is there already when its turn is not yet is announced."""

    def receive() -> str | None:
        try:
            clip: str | None = connection.recv()
        except (EOFError, OSError):  # the process that hands them out is gone
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
    """Set a variable for the processes that are started meanwhile."""
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
