"""Words that depend on a number, for messages and reports."""

__all__ = ["counted", "listed"]


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Write a number with its noun: `1 clip`, `2 clips`, `0 clips`.

    Args:
        number: How many.
        singular: The noun for one.
        plural: The noun for any other number; default: the singular with an s.
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def listed(items: list[str]) -> str:
    """Join items as a sentence does: `a`, `a and b`, `a, b and c`."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
