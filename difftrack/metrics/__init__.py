"""Compute scores from tracks or attention and the truth; independent of models and files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
