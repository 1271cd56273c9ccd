"""Cross-attention guidance: samples pushed away from what the model makes of frames that cannot see each other."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
