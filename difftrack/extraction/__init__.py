"""Runs a backbone over a clip and yields descriptors for the requested (step, layer)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
