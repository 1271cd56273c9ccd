"""The exception that this room raises."""

__all__ = ["MediaError", "cause_of"]


class MediaError(ValueError):
    """An image or video cannot be read or written; the message names the file and the cause."""


def cause_of(error: Exception) -> str:
    """Describe a library's error in plain words."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return str(error) or type(error).__name__
