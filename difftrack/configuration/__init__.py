"""The whole params.yaml: a typed object, its validation, the reference of its keys, and its JSON Schema."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
