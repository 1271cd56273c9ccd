"""What is done to a model's attention while it runs: heads removed, frozen, exchanged, patched, cut off from frames."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
