"""The exception that this room raises."""

__all__ = ["QualityError"]


class QualityError(ValueError):
    """A video cannot be measured as requested; the message states what is required."""
