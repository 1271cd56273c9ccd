"""From a name to a backbone."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._folder import find_folder
from difftrack.backbones._params import ModelParams

__all__ = ["load_backbone"]

_FAMILIES: Mapping[str, tuple[str, str]] = MappingProxyType({
    "CogVideoXTransformer3DModel": ("difftrack.backbones._cogvideox", "CogVideoXBackbone"),
    "HunyuanVideoTransformer3DModel": ("difftrack.backbones._hunyuan", "HunyuanVideoBackbone"),
    "WanTransformer3DModel": ("difftrack.backbones._wan", "WanBackbone"),
})  # fmt: skip
"""Transformer class -> module and class of the family; imported when needed, since diffusers is slow to import."""


def load_backbone(name: str, params: ModelParams | None = None) -> Backbone:
    """Find a backbone; its components load when first used.

    Args:
        name: A known name, an alias of the released code, `path:DIR`, or any label where `params.path` or
            `params.checkpoint` says what is meant.
        params: How to load it.

    Raises:
        BackboneError: the name is unknown, its weights are missing, incomplete or pickled, or no family here reads
            its transformer class.
    """
    params = params or ModelParams()
    folder = find_folder(name, params)
    transformer_class = folder.class_name("transformer")
    if transformer_class not in _FAMILIES:
        raise BackboneError(
            f"{name}: no family here captures {transformer_class}; known: {', '.join(sorted(_FAMILIES))}"
        )
    module, family = _FAMILIES[transformer_class]
    backbone: Backbone = getattr(importlib.import_module(module), family)(name, folder, params)
    return backbone
