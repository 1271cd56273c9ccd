"""How this room refuses."""

__all__ = ["QualityError"]


class QualityError(ValueError):
    """A video cannot be measured as asked; the message says what is wanted."""
