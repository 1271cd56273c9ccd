"""Measure where video diffusion transformers represent point correspondence, track points with it, and guide with it.

    import difftrack as dt

    model = dt.load_backbone("cogvideox-mini")
    store = dt.extract(model, dt.read_clip("my.mp4"), layers=[6, 7])
    tracks = dt.track(store, grid=20)

Names are imported at their first use, so this import is fast; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
