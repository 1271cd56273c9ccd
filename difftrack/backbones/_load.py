"""From a name to a backbone."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._components import Components, FolderComponents
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._folder import find_folder
from difftrack.backbones._known import KNOWN, KnownBackbone
from difftrack.backbones._names import ALIASES, CHECKPOINTS, SHIPPED
from difftrack.backbones._params import ModelParams

__all__ = ["backbone_of", "check_family", "load_backbone"]

_FAMILIES: Mapping[str, tuple[str, str]] = MappingProxyType({
    "AllegroTransformer3DModel": ("_allegro", "AllegroBackbone"),
    "CogVideoXTransformer3DModel": ("_cogvideox", "CogVideoXBackbone"),
    "HunyuanVideo15Transformer3DModel": ("_hunyuan15", "HunyuanVideo15Backbone"),
    "HunyuanVideoTransformer3DModel": ("_hunyuan", "HunyuanVideoBackbone"),
    "LTXVideoTransformer3DModel": ("_ltx", "LTXBackbone"),
    "MochiTransformer3DModel": ("_mochi", "MochiBackbone"),
    "SkyReelsV2Transformer3DModel": ("_skyreels", "SkyReelsV2Backbone"),
    "WanTransformer3DModel": ("_wan", "WanBackbone"),
})  # fmt: skip
"""Transformer class -> module and class of the family; imported when needed, since diffusers is slow to import."""


_SHIPPED_CLIPS = (17, 128, 192)
"""(frames, height, width) of the clips that the shipped backbone was trained on; see its card."""


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
    if params.image_condition == "checkpoint" and (known := _known(name, params)) is not None:
        params = replace(params, image_condition=known.image_condition)
    folder = find_folder(name, params)
    components = FolderComponents(folder, params)
    _ = components.pipeline_class  # refuses a pipeline that nobody has, before anything is loaded
    return backbone_of(name, folder.class_name("transformer"), components, params)


def _known(name: str, params: ModelParams) -> KnownBackbone | None:
    """What a name stands for, or the checkpoint that a label was given."""
    name = ALIASES.get(name, name)
    named = {checkpoint: known for known, checkpoint in CHECKPOINTS.items()}
    return KNOWN.get(name) or KNOWN.get(named.get(params.checkpoint or "", ""))


def check_family(name: str, transformer_class: str) -> None:
    """Refuse a transformer class that no family reads; `name` is for the message.

    Raises:
        BackboneError: no family here reads the class.
    """
    if transformer_class not in _FAMILIES:
        raise BackboneError(
            f"{name}: no family here captures {transformer_class}; known: {', '.join(sorted(_FAMILIES))}"
        )


def backbone_of(name: str, transformer_class: str, components: Components, params: ModelParams) -> Backbone:
    """The backbone of the family that reads a transformer class.

    Args:
        name: For messages.
        transformer_class: Of diffusers.
        components: Its parts.
        params: How it is loaded.

    Raises:
        BackboneError: no family here reads the class.
    """
    check_family(name, transformer_class)
    module, family = _FAMILIES[transformer_class]
    kind = getattr(importlib.import_module(f"difftrack.backbones.{module}"), family)
    backbone: Backbone = kind(name, components, params)
    alike = [known for known in KNOWN.values() if known.transformer[0] == transformer_class]
    known = KNOWN.get(ALIASES.get(name, name)) or next(iter(alike), None)
    backbone.made_for = _SHIPPED_CLIPS if name == SHIPPED else known.size if known is not None else None
    return backbone
