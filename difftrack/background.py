"""Runs calls in the background: in order, in one thread, with a bounded queue and stored errors."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

__all__ = ["Background"]


class Background:
    """Runs calls in order in the background, such as the writing of a video while the GPU computes.

    As a context manager it waits for all calls at the end, even after an error or an interrupt, so that started work is
    complete.

    Args:
        most: Maximum number of running and waiting calls; a further call waits, so that memory does not grow.

    Raises:
        ValueError: `most` is less than 1.
    """

    def __init__(self, *, most: int = 2) -> None:
        if most < 1:
            raise ValueError(f"most is {most}; it must be at least 1")
        self._places = threading.Semaphore(most)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Queue a call, after waiting for a free place; its future raises the call's exception."""
        self._places.acquire()
        try:
            done = self._thread.submit(call)
        except BaseException:
            self._places.release()
            raise
        done.add_done_callback(lambda _: self._places.release())
        return done
