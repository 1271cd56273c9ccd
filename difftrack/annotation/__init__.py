"""Trackers that produce (pseudo) ground truth, and import and export in the published file layout."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
