"""How extraction refuses a clip."""

__all__ = ["ExtractionError"]


class ExtractionError(ValueError):
    """A clip cannot be run as the params ask; the message names the clip and what would work."""
