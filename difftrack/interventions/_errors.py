"""The error of this room."""

__all__ = ["InterventionError"]


class InterventionError(ValueError):
    """An intervention or guidance is not possible as requested; the message says what would work."""
