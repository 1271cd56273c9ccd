"""Parts of a list of clips, for runs that know nothing of each other."""

import re
from collections.abc import Sequence

__all__ = ["PartError", "part_of"]


class PartError(ValueError):
    """A part is not one of a whole number of parts."""


def part_of(clips: Sequence[str], part: str | None) -> list[str]:
    """The clips of part `i/n`, i = 1 ... n: every n-th, so that neighbours of like length spread.

    Args:
        clips: All of them, in the same order in every part.
        part: Such as `2/4`; None for all.

    Raises:
        PartError: `part` is not of that form.
    """
    if part is None:
        return list(clips)
    matched = re.fullmatch(r"(\d+)/(\d+)", part)
    index, count = (int(number) for number in matched.groups()) if matched else (0, 0)
    if not 1 <= index <= count:
        raise PartError(f"part is {part!r}; i/n with i from 1 to n is wanted, such as 1/4")
    return list(clips[index - 1 :: count])
