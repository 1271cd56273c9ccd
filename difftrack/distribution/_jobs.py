"""What can be spread: a job that any process can open, and the worker that it becomes there."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future

__all__ = ["EXPECTED", "ClipWorker", "Job", "ProgressCallback"]

ProgressCallback = Callable[[int], None]
"""Told the bytes that were done since it was told last; may be called by any thread."""

EXPECTED = (ValueError, OSError)
"""What a clip may fail with while the others go on; anything else is a fault of the program."""


class ClipWorker(ABC):
    """A job in one process, its weights loaded."""

    def expect(self, clip: str) -> None:  # noqa: B027 - nobody has to
        """Hear which clip comes after the next `run`, where that is known; what can be begun beside it may be."""

    @abstractmethod
    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """Do one clip; return when the next one may begin.

        The result comes when everything of the clip is on disk; it raises what went wrong with the clip.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for what is under way."""


class Job(ABC):
    """What is to be done with clips; pickled to each worker, so it holds params and paths, no weights."""

    @abstractmethod
    def open(self) -> ClipWorker:
        """Load the weights; called once in each process."""
