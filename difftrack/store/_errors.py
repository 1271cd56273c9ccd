"""The one exception of the store."""

__all__ = ["StoreError"]


class StoreError(ValueError):
    """Something stored is missing, damaged, of other parameters, or cannot be stored; the message names it."""
