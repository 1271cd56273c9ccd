"""Clips and tracks: their files, TAP-Vid, and user folders. Foreign axis orders and units are converted here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
