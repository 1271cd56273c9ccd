"""Errors of the readers, and the record of clips that they left out."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["ClipFailure", "DatasetError", "refuse_unknown", "setting_aside"]

_MOST_NAMES = 40
"""Maximum number of names in a message."""


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
    """Record an error in one clip in `failures`, or raise it as a `DatasetError` if there is not a list.

    Every `ValueError` counts as an error in the foreign file, whether raised by this project or by NumPy.
    """
    try:
        yield
    except ValueError as error:
        failure = ClipFailure(name, str(error))
        if failures is None:
            raise DatasetError(str(failure)) from error
        failures.append(failure)


def refuse_unknown(skip: Collection[str], known: Iterable[str]) -> None:
    """Check that every name in `skip` is the name of a clip.

    Raises:
        DatasetError: a name is unknown; the message lists the unknown and the available names.
    """
    available = dict.fromkeys(known)
    unknown = [name for name in dict.fromkeys(skip) if name not in available]
    if unknown:
        listed = ", ".join([*list(available)[:_MOST_NAMES], *(["…"] if len(available) > _MOST_NAMES else [])])
        raise DatasetError(f"skip names {', '.join(unknown)}, but there is no such clip; available: {listed}")
