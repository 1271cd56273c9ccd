"""Trackers that give (pseudo) ground truth: exact, CoTracker3, Lucas-Kanade, import; and the published layout."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
