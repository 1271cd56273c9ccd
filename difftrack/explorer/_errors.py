"""Errors of the explorer."""

from pathlib import Path

__all__ = ["ExplorerError", "NotFoundError", "check_place"]


class ExplorerError(ValueError):
    """A source cannot be explored, or a question cannot be answered; the message is one line and names the thing."""


class NotFoundError(ExplorerError):
    """A question names a store, a clip, a frame or a job that the server does not have."""


def check_place(source: str) -> None:
    """Refuse a path at which there is nothing; what an address leads to is seen when it is opened.

    Raises:
        ExplorerError: there is nothing.
    """
    if "://" not in source and not Path(source).exists():
        raise ExplorerError(f"{source}: there is no such folder or file; name a data folder, a store or a video")
