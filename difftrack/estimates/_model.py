"""A backbone without weights, as far as its cost goes."""

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
    """A backbone without weights, and how large its weights are."""

    backbone: Backbone
    parameters: int
    weights_bytes: int

    @classmethod
    def of(cls, name: str, params: ModelParams) -> "Model":
        """Ask a folder that is there, or what is known of a name; nothing is loaded."""
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
        """Seconds of one branch: two operations per weight and token, and the attention's."""
        backbone = self.backbone
        tokens = grid.num_latent_frames * grid.rows * grid.cols + backbone.num_text_tokens
        attention = 4 * backbone.num_layers * tokens**2 * backbone.num_heads * backbone.num_channels
        return float(2 * self.parameters * tokens + attention) / card.flops

    def start_s(self, card: Card) -> float:
        """Of a process that loads it."""
        return card.startup_s + self.weights_bytes / card.weights_bytes_per_s

    def num_branches(self, cfg_scale: float) -> int:
        """Forwards of a sampling step."""
        return 1 if self.backbone.reads_guidance or cfg_scale <= 1 else 2


@cache
def _known(name: str, dtype: Literal["float32", "bfloat16", "float16"]) -> Model:
    """A named backbone, whose text encoder takes seconds to outline."""
    (need,) = memory_needs(name)
    weights = need.text_bytes + need.transformer_bytes + need.other_bytes
    return Model._of(constructed_backbone(name, ModelParams(device="meta", dtype=dtype)), weights)
