"""Calls that need not be waited for: one after another in a thread of their own, within bounds, errors kept."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

__all__ = ["Background"]


class Background:
    """Runs calls in their order beside the caller, as writing a video beside the GPU.

    As a context manager it waits for all calls on the way out, also when an error or an interrupt ends the block; so
    what was begun is whole.

    Args:
        most: Calls that are under way or wait; the next one waits for a place, so that memory does not grow.

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
        """Take a call, once there is a place for it; its future raises what the call raised."""
        self._places.acquire()
        try:
            done = self._thread.submit(call)
        except BaseException:
            self._places.release()
            raise
        done.add_done_callback(lambda _: self._places.release())
        return done
