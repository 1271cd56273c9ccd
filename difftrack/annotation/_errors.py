"""What trackers raise."""

__all__ = ["AnnotationError", "TrackerUnavailableError"]


class AnnotationError(ValueError):
    """Points of a clip cannot be tracked, imported or exported; the message says why and what would work."""


class TrackerUnavailableError(AnnotationError):
    """The tracker itself cannot be loaded: every clip would fail alike."""
