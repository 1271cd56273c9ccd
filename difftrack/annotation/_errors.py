"""Errors that trackers raise."""

__all__ = ["AnnotationError", "TrackerUnavailableError"]


class AnnotationError(ValueError):
    """Points of a clip cannot be tracked, imported or exported; the message names the cause and the way out."""


class TrackerUnavailableError(AnnotationError):
    """The tracker itself cannot be loaded, so that every clip would fail."""
