"""How this room refuses."""

__all__ = ["GuidanceError"]


class GuidanceError(ValueError):
    """A backbone cannot be guided as asked; the message says what would work."""
