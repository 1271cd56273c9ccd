"""Tracks or attention + truth -> numbers; knows nothing of models or files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
