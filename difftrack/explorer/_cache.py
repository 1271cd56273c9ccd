"""A cache of decoded descriptors, frames and matches that never exceeds a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """Keeps values up to a total size; the least recently used is dropped first.

    A value larger than the whole budget is computed but not kept. Threads may share a cache; two that miss the same key
    at once both compute its value.

    Args:
        budget: Maximum size in bytes.
        weigh: Returns the size of a value in bytes.
    """

    def __init__(self, budget: int, weigh: Callable[[T], int]) -> None:
        self.budget = budget
        self._weigh = weigh
        self._lock = Lock()
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._held = 0

    @property
    def held(self) -> int:
        """Current size in bytes."""
        return self._held

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, computed if it is not in the cache."""
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
