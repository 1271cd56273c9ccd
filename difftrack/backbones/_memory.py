"""What each named backbone needs of a card's memory, computed from configs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from difftrack.backbones._counts import counts_of
from difftrack.backbones._registry import KNOWN

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
    """Of the transformer, or of both experts."""
    running_bytes: int
    """Of the one transformer that runs at a time."""
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
        return CONTEXT_BYTES + max(self.text_bytes, self.other_bytes, self.running_bytes + self.activation_bytes)

    def switch_for(self, card_bytes: int) -> Switch:
        """The mildest switch with which it fits a card; `no` where the transformer alone leaves no room."""
        switches: tuple[Switch, ...] = ("as it is", "release_text_encoder", "cpu_offload")
        return next((switch for switch in switches if self.needed(switch) <= USABLE * card_bytes), "no")


def memory_needs(*names: str) -> Iterator[MemoryNeed]:
    """One for each named backbone, or for these."""
    for name in KNOWN:
        if names and name not in names:
            continue
        counts = counts_of(name)
        text = sum(size for component, size in counts.encoder_bytes.items() if component.startswith("text"))
        num_tokens = counts.grid.num_tokens + counts.num_text_tokens
        num_numbers = num_tokens * counts.num_heads * counts.num_channels * ACTIVATIONS_PER_CHANNEL
        yield MemoryNeed(
            name,
            text_bytes=text,
            transformer_bytes=sum(counts.expert_bytes),
            running_bytes=max(counts.expert_bytes),
            other_bytes=counts.vae_bytes + sum(counts.encoder_bytes.values()) - text,
            activation_bytes=num_numbers * _ITEMSIZE,
        )


_ITEMSIZE = 2
"""Bytes of a number in bfloat16."""
