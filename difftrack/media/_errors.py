"""How this room refuses."""

__all__ = ["MediaError", "cause_of"]


class MediaError(ValueError):
    """A picture or video cannot be read or written; the message names the file and the cause."""


def cause_of(error: Exception) -> str:
    """What a library's error says, in words that a person expects."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) or type(error).__name__
