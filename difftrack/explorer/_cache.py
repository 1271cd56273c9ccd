"""A cache of decoded descriptors, frames and matches that never exceeds a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """Keeps values until they weigh more than a budget together; the least recently used goes first.

    A value that is heavier than the whole budget is made and not kept. Threads may share a cache; two that miss the
    same key at once both make its value.

    Args:
        budget: Bytes.
        weigh: Bytes of a value.
    """

    def __init__(self, budget: int, weigh: Callable[[T], int]) -> None:
        self.budget = budget
        self._weigh = weigh
        self._lock = Lock()
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes that are kept now."""
        return self._held

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made now where it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        weight = self._weigh(value)
        with self._lock:
            if weight <= self.budget and key not in self._values:
                self._values[key] = value
                self._held += weight
                while self._held > self.budget:
                    self._held -= self._weigh(self._values.popitem(last=False)[1])
        return value
