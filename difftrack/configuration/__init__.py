"""All of params.yaml: one typed object, its check before anything runs, what its keys mean, and its JSON Schema."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
