"""What can go wrong in a call of the notebook API itself."""

__all__ = ["UsageError"]


class UsageError(ValueError):
    """Arguments of a call do not fit each other; the message says what is wanted."""
