"""Exceptions of the store."""

__all__ = ["IrregularFileError", "StoreError"]


class StoreError(ValueError):
    """Stored data is missing, damaged or has other params, or data cannot be stored; the message names it."""


class IrregularFileError(StoreError):
    """A file has a kind, size or place that no file of a store has; other files may still be valid."""
