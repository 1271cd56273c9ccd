"""Names of clips: they name files and folders on every system, keep the letters of every script, and are unique."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from difftrack.datasets._errors import DatasetError

__all__ = ["check_name", "plain_name", "told_apart", "unique_names"]

_MOST_BYTES = 200
"""Of a name in UTF-8; file systems take 255, and endings such as `-tracks.npz` follow."""
_MARKS = frozenset("._-")


def check_name(name: str) -> None:
    """Refuse what cannot name a folder on every system."""
    if not _is_plain(name):
        raise DatasetError(
            f"{name!r} cannot name a clip; wanted: letters and digits of any script, dot, dash and underscore, no dot "
            f"in front, at most {_MOST_BYTES} bytes"
        )


def plain_name(name: str, *, blank: str = "_") -> str:
    """Turn a foreign name into one that can name a folder: `a b/c` becomes `a_b_c`, `影片一` stays.

    Two names may become one; `unique_names` tells them apart.

    Args:
        name: Any text.
        blank: What takes the place of everything that may not stand in a name.
    """
    composed = unicodedata.normalize("NFC", name)
    plain = "".join(letter if _may_stand(letter) else blank for letter in composed)
    plain = plain if plain and not plain.startswith(".") else f"_{plain}"
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore")


def told_apart(name: str) -> str:
    """A plain name with a mark of its own, a hash of the foreign name: `a_b-1f40c2`."""
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{plain_name(name).encode()[: _MOST_BYTES - 7].decode(errors='ignore')}-{mark}"


def unique_names(names: Sequence[str]) -> list[str]:
    """Plain names, no two alike: those that would be are all told apart, whatever else is there.

    Args:
        names: Foreign names, no two alike.
    """
    counts = Counter(map(plain_name, names))
    return [told_apart(name) if counts[plain_name(name)] > 1 else plain_name(name) for name in names]


def _is_plain(name: str) -> bool:
    return (
        0 < len(name.encode(errors="replace")) <= _MOST_BYTES
        and not name.startswith(".")
        and all(map(_may_stand, name))
        and unicodedata.is_normalized("NFC", name)
    )


def _may_stand(letter: str) -> bool:
    """Whether a letter, a digit, or a mark that belongs to one, such as a vowel sign."""
    return letter in _MARKS or unicodedata.category(letter)[0] in "LMN"
