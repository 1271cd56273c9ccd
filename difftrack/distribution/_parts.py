"""Divide a list of clips into parts for independent runs."""

import re
from collections.abc import Sequence

__all__ = ["PartError", "part_of"]


class PartError(ValueError):
    """A part is not of the form i/n with 1 <= i <= n."""


def part_of(clips: Sequence[str], part: str | None) -> list[str]:
    """Select the clips of part `i/n`, i = 1 ... n: every n-th clip, so that neighbours of similar length are separated.

    Args:
        clips: All clips, in the same order for every part.
        part: For example `2/4`; None selects all clips.

    Raises:
        PartError: `part` is not of that form.
    """
    if part is None:
        return list(clips)
    matched = re.fullmatch(r"(\d+)/(\d+)", part)
    index, count = (int(number) for number in matched.groups()) if matched else (0, 0)
    if not 1 <= index <= count:
        raise PartError(f"part is {part!r}; it must be i/n with 1 <= i <= n, such as 1/4")
    return list(clips[index - 1 :: count])
