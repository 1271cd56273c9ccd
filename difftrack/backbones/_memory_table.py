"""What each named backbone needs of a card's memory, computed from configs."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._folder import values_not_drawn
from difftrack.backbones._memory import MemoryNeed, need_of
from difftrack.backbones._params import ModelParams
from difftrack.backbones._random_init import constructed_backbone
from difftrack.backbones._registry import KNOWN, find_class

__all__ = ["memory_needs"]


def memory_needs(*names: str) -> Iterator[MemoryNeed]:
    """One for each named backbone, or for these, in bfloat16 at its own size; classes are built without memory."""
    for name, known in KNOWN.items():
        if names and name not in names:
            continue
        backbone = constructed_backbone(name, ModelParams(device="meta", dtype="bfloat16"))
        encoders = {component: _encoder_values(*made_of) for component, made_of in known.encoders.items()}
        models = {component: backbone.components.outline(component) for component in _models_of(backbone)}
        values = encoders | {component: _values(model) for component, model in models.items()}
        yield need_of(backbone, values, known.size)


def _models_of(backbone: Backbone) -> tuple[str, ...]:
    return (*(backbone.experts.values() or ("transformer",)), "vae")


def _encoder_values(class_name: str, arguments: Mapping[str, Any]) -> int:
    kind = find_class(class_name)
    with torch.device("meta"), values_not_drawn():
        return _values(kind(kind.config_class(**arguments)))


def _values(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
