"""What each named backbone needs of a card's memory, computed from configs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from difftrack.backbones._params import ModelParams
from difftrack.backbones._random_init import constructed_backbone
from difftrack.backbones._registry import KNOWN, find_class

__all__ = ["ACTIVATIONS_PER_CHANNEL", "CONTEXT_BYTES", "USABLE", "MemoryNeed", "Switch", "memory_needs"]

Switch = Literal["as it is", "release_text_encoder", "cpu_offload", "no"]

ACTIVATIONS_PER_CHANNEL = 16
"""Numbers that one branch holds at a time for each token and channel: the hidden state, and what the widest block makes
of it (normalised state, queries, keys, values, attention, a feed-forward layer of four times the width before and after
its activation, one of them concatenated)."""
CONTEXT_BYTES = 10**9
"""Of CUDA and its libraries."""
USABLE = 0.95
"""Share of a card's memory that is counted on; the rest is lost between blocks."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of one backbone in bfloat16, at the size that it is made for; one branch, its autoencoder tiled."""

    name: str
    text_bytes: int
    """Of all text encoders."""
    transformer_bytes: int
    other_bytes: int
    """Of the autoencoder, and of an image encoder."""
    activation_bytes: int

    def needed(self, switch: Switch) -> int:
        """Most bytes on the card at a time.

        Args:
            switch: `as it is`: everything stays. `release_text_encoder`: text, then all else. `cpu_offload`: one
                component at a time.
        """
        working = self.transformer_bytes + self.activation_bytes
        if switch == "as it is":
            return CONTEXT_BYTES + self.text_bytes + self.other_bytes + working
        if switch == "release_text_encoder":
            return CONTEXT_BYTES + max(self.text_bytes, self.other_bytes + working)
        return CONTEXT_BYTES + max(self.text_bytes, self.other_bytes, working)

    def switch_for(self, card_bytes: int) -> Switch:
        """The mildest switch with which it fits a card; `no` where the transformer alone leaves no room."""
        switches: tuple[Switch, ...] = ("as it is", "release_text_encoder", "cpu_offload")
        return next((switch for switch in switches if self.needed(switch) <= USABLE * card_bytes), "no")


def memory_needs(*names: str) -> Iterator[MemoryNeed]:
    """One for each named backbone, or for these; their classes are built without memory."""
    for name, known in KNOWN.items():
        if names and name not in names:
            continue
        backbone = constructed_backbone(name, ModelParams(device="meta", dtype="bfloat16"))
        encoders = {component: _encoder_bytes(*made_of) for component, made_of in known.encoders.items()}
        text = sum(size for component, size in encoders.items() if component.startswith("text"))
        num_tokens = backbone.token_grid(*known.size).num_tokens + backbone.num_text_tokens
        num_numbers = num_tokens * backbone.num_heads * backbone.num_channels * ACTIVATIONS_PER_CHANNEL
        yield MemoryNeed(
            name,
            text_bytes=text,
            transformer_bytes=sum(_bytes(transformer) for transformer in backbone.all_transformers()),
            other_bytes=_bytes(backbone.vae) + sum(encoders.values()) - text,
            activation_bytes=num_numbers * torch.bfloat16.itemsize,
        )


def _encoder_bytes(class_name: str, arguments: Mapping[str, Any]) -> int:
    kind = find_class(class_name)
    with torch.device("meta"):
        return _bytes(kind(kind.config_class(**arguments)).to(torch.bfloat16))


def _bytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.itemsize for weight in model.parameters())
