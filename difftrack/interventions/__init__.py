"""Changes a model's attention while it runs: heads removed, frozen, swapped, patched, or cut off from frames."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
