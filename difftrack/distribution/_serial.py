"""Run all clips in this process."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from itertools import zip_longest

from difftrack.distribution._jobs import EXPECTED, ClipWorker, Job, ProgressCallback

__all__ = ["attempt", "problem_of", "run_serially"]


def run_serially(job: Job, clips: Sequence[str], *, report: ProgressCallback) -> Iterator[tuple[str, str | None]]:
    """Run clips, see `run_clips`; the previous clip's files may still be written while a clip is computed."""
    with closing(job.open()) as worker:
        under_way: deque[tuple[str, Future[None]]] = deque()
        for clip, following in zip_longest(clips, clips[1:]):
            if following is not None:
                worker.expect(following)
            under_way.append((clip, attempt(worker, clip, report)))
            while under_way and (len(under_way) > 2 or under_way[0][1].done()):
                yield _settled(*under_way.popleft())
        while under_way:
            yield _settled(*under_way.popleft())


def attempt(worker: ClipWorker, clip: str, report: ProgressCallback) -> Future[None]:
    """Run one clip; an exception in `EXPECTED` is stored in the future."""
    try:
        return worker.run(clip, report)
    except EXPECTED as error:
        failed: Future[None] = Future()
        failed.set_exception(error)
        return failed


def problem_of(done: Future[None]) -> str | None:
    """Return the message of an exception in `EXPECTED`, or None; any other exception is raised."""
    try:
        done.result()
    except EXPECTED as error:
        return str(error)
    return None


def _settled(clip: str, done: Future[None]) -> tuple[str, str | None]:
    return clip, problem_of(done)
