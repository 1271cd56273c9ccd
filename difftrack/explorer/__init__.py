"""The explorer: a local web application that follows a clicked point through layers, heads and steps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
