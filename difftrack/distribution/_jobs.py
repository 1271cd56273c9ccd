"""Interfaces of distributed work: a job that any process can open, and the worker that it opens."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future

__all__ = ["EXPECTED", "ClipWorker", "Job", "ProgressCallback"]

ProgressCallback = Callable[[int], None]
"""Called with the number of bytes finished since the last call, from any thread."""

EXPECTED = (ValueError, OSError)
"""Exceptions with which one clip may fail while the others continue; any other exception is a bug."""


class ClipWorker(ABC):
    """A job opened in one process, with its weights loaded."""

    def expect(self, clip: str) -> None:  # noqa: B027 - overriding is optional
        """Announce the clip that follows the next `run`, if it is known, so that its preparation can start early."""

    @abstractmethod
    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """Run one clip and return when the next clip may start.

        The future is done when all files of the clip are on disk; its `result` raises the clip's error.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for unfinished work."""


class Job(ABC):
    """Work to do on each clip. Jobs are pickled to the workers, so they contain params and paths but no weights."""

    @abstractmethod
    def open(self) -> ClipWorker:
        """Load the weights and return a worker; called once in each process."""
