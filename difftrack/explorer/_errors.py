"""Errors of the explorer."""

__all__ = ["ExplorerError", "NotFoundError"]


class ExplorerError(ValueError):
    """A source cannot be explored, or a question cannot be answered; the message is one line and names the thing."""


class NotFoundError(ExplorerError):
    """A question names a store, a clip, a frame or a job that the server does not have."""
