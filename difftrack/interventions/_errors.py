"""How this room refuses."""

__all__ = ["InterventionError"]


class InterventionError(ValueError):
    """A backbone cannot be intervened in or guided as asked; the message says what would work."""
