"""Propagates masks, boxes and keypoints through a video along tracking descriptors, and scores the result."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
