"""A family of backbones: its names, classes and checkpoints."""

import importlib
from typing import TYPE_CHECKING, Any

from difftrack.backbones import BackboneFamily, KnownBackbone

if TYPE_CHECKING:
    from difftrack_example.models import ToyAutoencoder as ToyAutoencoder
    from difftrack_example.models import ToyTransformer3DModel as ToyTransformer3DModel
    from difftrack_example.pipeline import ToyPipeline as ToyPipeline

__all__ = ["FAMILY", "ToyAutoencoder", "ToyPipeline", "ToyTransformer3DModel"]

FAMILY = BackboneFamily(
    name="toy",
    backbone="difftrack_example.backbone:ToyBackbone",
    transformers=("ToyTransformer3DModel",),
    library="difftrack_example",
    checkpoints={
        "toy-tiny": KnownBackbone(
            repository="nobody/toy-tiny",
            pipeline="ToyPipeline",
            transformer=("ToyTransformer3DModel", {}),
            vae=("ToyAutoencoder", {}),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
            size=(9, 48, 80),
            small={"num_layers": 2},
            encoders={},
        ),
    },
)


_MODULES = {"ToyAutoencoder": "models", "ToyTransformer3DModel": "models", "ToyPipeline": "pipeline"}


def __getattr__(name: str) -> Any:
    """Import a class on request: diffusers is slow to import, and a table of names does not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
