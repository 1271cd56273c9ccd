"""Turns artifacts into tables, figures and overlays; the only room that rounds, styles, or writes percent."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
