"""Clip names: valid as file and folder names on every system, unique, in any script."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from difftrack.datasets._errors import DatasetError

__all__ = ["check_name", "plain_name", "told_apart", "unique_names"]

_MOST_BYTES = 200
"""Maximum length of a name in UTF-8; file systems allow 255 bytes, and suffixes such as `-tracks.npz` are added."""
_MARKS = frozenset("._-")


def check_name(name: str) -> None:
    """Check that a name is a valid folder name on every system."""
    if not _is_plain(name):
        raise DatasetError(
            f"{name!r} is not a valid clip name; use letters and digits of any script, dot, dash and underscore, no "
            f"leading dot, at most {_MOST_BYTES} bytes"
        )


def plain_name(name: str, *, blank: str = "_") -> str:
    """Convert any name to a valid folder name: `a b/c` becomes `a_b_c`, `影片一` does not change.

    Of a name without any letter or digit, only a hash remains.

    Two names may become equal; `unique_names` prevents that.

    Args:
        name: Any text.
        blank: Replacement for each character that is not allowed.
    """
    composed = unicodedata.normalize("NFC", name)
    plain = "".join(letter if _is_allowed(letter) else blank for letter in composed)
    if not any(letter.isalnum() for letter in plain):  # such as emoji, of which nothing would be left
        return f"_-{_mark(name)}"
    plain = plain if plain and not plain.startswith(".") else f"_{plain}"
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore")


def told_apart(name: str) -> str:
    """Return a plain name with a suffix, a hash of the original name: `a_b-1f40c2`."""
    plain = plain_name(name).encode()[: _MOST_BYTES - 7].decode(errors="ignore")
    return f"{plain}-{_mark(name)}"


def _mark(name: str) -> str:
    """Return a short hash; undecodable bytes of a file name count as they are."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:6]


def unique_names(names: Sequence[str]) -> list[str]:
    """Convert names to different plain names; names that would be equal all get a hash suffix.

    Args:
        names: The original names, all different.
    """
    counts = Counter(map(plain_name, names))
    return [told_apart(name) if counts[plain_name(name)] > 1 else plain_name(name) for name in names]


def _is_plain(name: str) -> bool:
    return (
        0 < len(name.encode(errors="replace")) <= _MOST_BYTES
        and not name.startswith(".")
        and all(map(_is_allowed, name))
        and unicodedata.is_normalized("NFC", name)
    )


def _is_allowed(letter: str) -> bool:
    """Whether a character is a letter, a digit, a combining mark such as a vowel sign, or one of `._-`."""
    return letter in _MARKS or unicodedata.category(letter)[0] in "LMN"
