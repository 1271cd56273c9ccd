"""A seeded procedural renderer with exact tracks and visibility: textured layers that move, bend and occlude."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
