"""The two ways in which this room refuses."""

__all__ = ["BackboneError", "CaptureError"]


class BackboneError(ValueError):
    """A backbone cannot be found, loaded or run as asked; the message says what would work."""


class CaptureError(BackboneError):
    """Attention was not captured as asked; the message names the likely cause."""
