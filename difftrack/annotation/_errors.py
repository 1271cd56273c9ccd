"""What trackers raise."""

__all__ = ["AnnotationError"]


class AnnotationError(ValueError):
    """Points of a clip cannot be tracked, imported or exported; the message says why and what would work."""
