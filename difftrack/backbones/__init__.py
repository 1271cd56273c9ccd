"""What each video diffusion transformer is, how to run it to a step, and the seam that captures its attention."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
