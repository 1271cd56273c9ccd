"""Cross-attention guidance: steers samples away from predictions in which frames cannot attend to each other."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
