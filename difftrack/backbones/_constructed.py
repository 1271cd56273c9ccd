"""Backbones built from constructor arguments: without memory, to be asked about, or with random weights, to be run."""

import hashlib
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._components import Components
from difftrack.backbones._folder import cast_weights
from difftrack.backbones._known import KNOWN, KnownBackbone
from difftrack.backbones._load import backbone_of
from difftrack.backbones._names import canonical_name
from difftrack.backbones._params import ModelParams

__all__ = ["constructed_backbone"]


class ConstructedComponents(Components):
    """A transformer with random weights, a scheduler, and an autoencoder without weights, for its config."""

    def __init__(self, known: KnownBackbone, params: ModelParams, *, small: bool) -> None:
        super().__init__(known.pipeline, known.settings, params)
        self._known = known
        self._small: Mapping[str, Any] = known.small if small else {}

    @property
    def names(self) -> tuple[str, ...]:
        return ("transformer", "vae", "scheduler")

    @property
    def revision(self) -> None:
        return None

    def fingerprint(self) -> str:
        return hashlib.sha256(f"random weights of {self._known}, {self._small}".encode()).hexdigest()

    def _make(self, component: str) -> Any:  # noqa: ANN401
        if component == "scheduler":
            kind, arguments = self._known.scheduler
            return getattr(diffusers, kind)(**arguments)
        kind, arguments = getattr(self._known, component)
        changes = self._small if component == "transformer" else {}
        device = self.device if component == "transformer" else torch.device("meta")
        with torch.device(device):
            model = getattr(diffusers, kind)(**{**arguments, **changes}).eval()
        return cast_weights(model.requires_grad_(requires_grad=False), self.dtype)


def constructed_backbone(name: str, params: ModelParams | None = None, *, small: bool = False) -> Backbone:
    """A named backbone with random weights; it cannot encode clips or prompts.

    Args:
        name: Of the table of backbones.
        params: Where, and in which dtype; on the device `meta` it takes no memory and can only be asked about.
        small: With few layers and heads, to be run anywhere.

    Raises:
        BackboneError: nobody knows the name.
    """
    params = params or ModelParams(device="meta")
    known = KNOWN[canonical_name(name)]
    return backbone_of(name, known.transformer[0], ConstructedComponents(known, params, small=small), params)
