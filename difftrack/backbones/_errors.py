"""The two errors of this room."""

__all__ = ["BackboneError", "CaptureError"]


class BackboneError(ValueError):
    """A backbone cannot be found, loaded or run as requested; the message says what would work."""


class CaptureError(BackboneError):
    """Attention could not be captured as requested; the message names the likely cause."""
