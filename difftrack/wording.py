"""Format counts and lists in messages and reports."""

__all__ = ["counted", "listed"]


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Write a number with its noun: `1 clip`, `2 clips`, `0 clips`.

    Args:
        number: The count.
        singular: The singular noun.
        plural: The plural noun; the default adds an s to the singular.
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def listed(items: list[str]) -> str:
    """Join items as in a sentence: `a`, `a and b`, `a, b and c`."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
