"""Errors of the explorer."""

from pathlib import Path

__all__ = ["ExplorerError", "NotFoundError", "check_place"]


class ExplorerError(ValueError):
    """A source cannot be explored, or a question cannot be answered; the message is one line and names the cause."""


class NotFoundError(ExplorerError):
    """A question names a store, a clip, a frame or a job that the server does not have."""


def check_place(source: str) -> None:
    """Refuse a path that does not exist; URLs are checked when they are opened.

    Raises:
        ExplorerError: the path does not exist.
    """
    if "://" not in source and not Path(source).exists():
        raise ExplorerError(f"{source}: there is no such folder or file; name a data folder, a store or a video")
