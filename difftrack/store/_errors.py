"""The exceptions of the store."""

__all__ = ["IrregularFileError", "StoreError"]


class StoreError(ValueError):
    """Something stored is missing, damaged, of other parameters, or cannot be stored; the message names it."""


class IrregularFileError(StoreError):
    """A file is of a kind, of a size or in a place in which no file of a store is; other files may be sound."""
