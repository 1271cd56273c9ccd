"""The error of the notebook API."""

__all__ = ["UsageError"]


class UsageError(ValueError):
    """Arguments of a call do not fit each other; the message says what is expected."""
