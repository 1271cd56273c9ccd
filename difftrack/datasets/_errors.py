"""What the readers raise, and how they report clips that they had to leave out."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["ClipFailure", "DatasetError", "refuse_unknown", "setting_aside"]

_MOST_NAMES = 40
"""Names that a message lists."""


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
    """Turn what goes wrong with one clip into an entry of `failures`, or, without a list, into a `DatasetError`.

    Any `ValueError` counts: a foreign file's content is at fault, whether we or NumPy noticed.
    """
    try:
        yield
    except ValueError as error:
        failure = ClipFailure(name, str(error))
        if failures is None:
            raise DatasetError(str(failure)) from error
        failures.append(failure)


def refuse_unknown(skip: Collection[str], known: Iterable[str]) -> None:
    """Refuse names to be left out that no clip has.

    Raises:
        DatasetError: names them, and what there is.
    """
    have = dict.fromkeys(known)
    unknown = [name for name in dict.fromkeys(skip) if name not in have]
    if unknown:
        listed = ", ".join([*list(have)[:_MOST_NAMES], *(["…"] if len(have) > _MOST_NAMES else [])])
        raise DatasetError(f"skip names {', '.join(unknown)}, and there is no such clip; have: {listed}")
