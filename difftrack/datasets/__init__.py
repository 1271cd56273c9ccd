"""Clips and tracks: their files, TAP-Vid, and the user's own folders; foreign axis orders and units end here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
