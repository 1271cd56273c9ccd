"""The cost of a backbone, computed without loading its weights."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from difftrack.backbones import KNOWN, Backbone, ModelParams, constructed_backbone, load_backbone, memory_needs
from difftrack.estimates._costs import Card
from difftrack.geometry import TokenGrid

__all__ = ["Model"]


@dataclass(frozen=True, slots=True)
class Model:
    """A backbone without weights, and the size of its weights."""

    backbone: Backbone
    parameters: int
    weights_bytes: int

    @classmethod
    def of(cls, name: str, params: ModelParams) -> "Model":
        """Describe a backbone from its folder, or from its known name; no weights are loaded."""
        if params.path is None and params.checkpoint is None and name in KNOWN:
            return _known(name, params.dtype)
        folder = Path(params.path or "")
        weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) if params.path else 0
        return cls._of(load_backbone(name, params), weights)

    @classmethod
    def _of(cls, backbone: Backbone, weights: int) -> "Model":
        outline = backbone.components.outline("transformer")
        return cls(backbone, sum(weight.numel() for weight in outline.parameters()), weights)

    def forward_s(self, grid: TokenGrid, card: Card) -> float:
        """Seconds of one branch's forward pass: two operations per weight and token, plus attention."""
        backbone = self.backbone
        tokens = grid.num_tokens + backbone.num_text_tokens + backbone.num_history_tokens(grid)
        attention = 4 * backbone.num_layers * tokens**2 * backbone.num_heads * backbone.num_channels
        return float(2 * self.parameters * tokens + attention) / card.flops

    def start_s(self, card: Card) -> float:
        """Seconds for a process to start and load the backbone."""
        return card.startup_s + self.weights_bytes / card.weights_bytes_per_s

    def num_branches(self, cfg_scale: float) -> int:
        """Number of forward passes in a sampling step."""
        return 1 if self.backbone.reads_guidance or cfg_scale <= 1 else 2


@cache
def _known(name: str, dtype: Literal["float32", "bfloat16", "float16"]) -> Model:
    """Describe a backbone by name; cached, because outlining its text encoder takes seconds."""
    (need,) = memory_needs(name)
    weights = need.text_bytes + need.transformer_bytes + need.other_bytes
    return Model._of(constructed_backbone(name, ModelParams(device="meta", dtype=dtype)), weights)
