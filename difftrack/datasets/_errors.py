"""What the readers raise, and how they report clips that they had to leave out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from difftrack.media import MediaError

__all__ = ["ClipFailure", "DatasetError", "setting_aside"]


class DatasetError(ValueError):
    """A clip, its tracks or a data set cannot be used; the message names it and the cause."""


@dataclass(frozen=True, slots=True)
class ClipFailure:
    """A clip that was left out."""

    name: str
    cause: str

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}"


@contextmanager
def setting_aside(name: str, failures: list[ClipFailure] | None) -> Iterator[None]:
    """Turn what goes wrong with one clip into an entry of `failures`, or, without a list, into a `DatasetError`."""
    try:
        yield
    except (DatasetError, MediaError) as error:
        failure = ClipFailure(name, str(error))
        if failures is None:
            raise DatasetError(str(failure)) from error
        failures.append(failure)
