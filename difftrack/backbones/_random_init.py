"""Backbones built from constructor arguments: without memory, for inspection, or with random weights, to run."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._components import Components
from difftrack.backbones._family import KnownBackbone
from difftrack.backbones._folder import cast_weights, values_not_drawn
from difftrack.backbones._load import backbone_of
from difftrack.backbones._names import canonical_name
from difftrack.backbones._params import ModelParams
from difftrack.backbones._registry import KNOWN, find_class

__all__ = ["constructed_backbone", "fill_weights", "weights_without_memory"]


class ConstructedComponents(Components):
    """A transformer with random weights, a scheduler, and an autoencoder without weights, for its config."""

    def __init__(self, known: KnownBackbone, params: ModelParams, *, small: bool) -> None:
        super().__init__(known.pipeline, known.settings, params)
        self._known = known
        self._small: Mapping[str, Any] = known.small if small else {}

    @property
    def names(self) -> tuple[str, ...]:
        second = () if self._known.transformer_2 is None else ("transformer_2",)
        return ("transformer", *second, "vae", "scheduler")

    @property
    def revision(self) -> None:
        return None

    def fingerprint(self) -> str:
        return hashlib.sha256(f"random weights of {self._known}, {self._small}".encode()).hexdigest()

    def _make(self, component: str) -> Any:  # noqa: ANN401
        if component == "scheduler":
            kind, arguments = self._known.scheduler
            return find_class(kind)(**arguments)
        if component == "vae" or self.device.type == "meta":
            return self.outline(component)
        return fill_weights(
            self._construct(component, self.device), self.device, seed=int(component == "transformer_2")
        )

    def _make_outline(self, component: str) -> Any:  # noqa: ANN401
        return self._construct(component, torch.device("meta"))

    def _construct(self, component: str, device: torch.device) -> Any:  # noqa: ANN401
        kind, arguments = getattr(self._known, component)
        changes = self._small if component != "vae" else {}
        with torch.device(device), weights_without_memory(), values_not_drawn():
            model = find_class(kind)(**{**arguments, **changes}).eval()
        return cast_weights(model.requires_grad_(requires_grad=False), self.dtype)


@contextmanager
def weights_without_memory() -> Iterator[None]:
    """Create models whose weights are on the device meta and whose buffers are on the real device.

    Buffers (tables of positions) are computed by the constructors and saved nowhere, so a model created on meta and
    then moved would hold garbage in them.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is not None and not weight.is_meta:  # two modules keep sharing a weight
            weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        register(module, name, weight)

    nn.Module.register_parameter = register_on_meta  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@torch.no_grad()
def fill_weights(model: Any, device: torch.device, *, seed: int) -> Any:  # noqa: ANN401
    """Draw random weights directly on their final device, so that no large model passes through the CPU.

    Matrices are drawn as torch draws a linear layer's, weights of norms are 1, biases are small.
    """
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in made:
                setattr(module, name, made[id(weight)][1])
                continue
            drawn = torch.empty_like(weight, device=device)
            if weight.ndim == 1 and name == "weight":
                drawn.fill_(1)
            else:
                bound = (weight.numel() / len(weight)) ** -0.5 if weight.ndim > 1 else 0.02
                drawn.uniform_(-bound, bound, generator=generator)
            made[id(weight)] = (weight, nn.Parameter(drawn, requires_grad=False))  # kept alive, so that ids stay unique
            setattr(module, name, made[id(weight)][1])
    return model


def constructed_backbone(name: str, params: ModelParams | None = None, *, small: bool = False) -> Backbone:
    """A named backbone with random weights; it cannot encode clips or prompts.

    Args:
        name: Name in the table of backbones.
        params: Device and dtype; on the device `meta` it takes no memory and can only be inspected.
        small: Few layers and heads, so that it runs anywhere.

    Raises:
        BackboneError: the name is unknown.
    """
    params = params or ModelParams(device="meta")
    known = KNOWN[canonical_name(name)]
    return backbone_of(name, known.transformer[0], ConstructedComponents(known, params, small=small), params)
