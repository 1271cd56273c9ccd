"""Labels that travel through a video along tracking descriptors: masks, boxes, keypoints, and how good they are."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
