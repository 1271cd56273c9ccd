"""The error for a clip that cannot be extracted."""

__all__ = ["ExtractionError"]


class ExtractionError(ValueError):
    """A clip does not fit the params; the message names the clip and what would work."""
