"""What each named backbone is, in numbers, without loading one."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._names import ALIASES, CHECKPOINTS
from difftrack.backbones._random_init import constructed_backbone
from difftrack.backbones._registry import KNOWN
from difftrack.geometry import TokenGrid

__all__ = ["BackboneSummary", "summaries"]


@dataclass(frozen=True, slots=True)
class BackboneSummary:
    """One row of the table of backbones; counts are its classes' own."""

    name: str
    num_layers: int
    num_heads: int
    num_channels: int
    size: tuple[int, int, int]
    """(frames, height, width) of the clips that it is made for."""
    grid: TokenGrid
    """Their tokens."""
    query_key_bytes: int
    """Of the video's queries and keys of one layer at one step, in bfloat16."""
    transformer_bytes: int
    """Of the weights of the transformer, or of both experts, in bfloat16."""
    checkpoint: str
    alias: str | None
    """Its name in the released code."""
    cached: bool
    """Whether the checkpoint's index is in the local cache."""


def summaries(names: Collection[str] | None = None) -> Iterator[BackboneSummary]:
    """One row for each named backbone, as it is built; for some of them, or their aliases, where these are given."""
    from huggingface_hub import try_to_load_from_cache

    aliases = {name: alias for alias, name in ALIASES.items()}
    wanted = None if names is None else {ALIASES.get(name, name) for name in names}
    for name, checkpoint in CHECKPOINTS.items():
        if wanted is not None and name not in wanted:
            continue
        backbone, size = constructed_backbone(name), KNOWN[name].size
        grid = backbone.token_grid(*size)
        yield BackboneSummary(
            name=name,
            num_layers=backbone.num_layers,
            num_heads=backbone.num_heads,
            num_channels=backbone.num_channels,
            size=size,
            grid=grid,
            query_key_bytes=query_key_bytes(backbone, grid),
            transformer_bytes=sum(
                weight.numel() * _ITEMSIZE for model in backbone.all_transformers() for weight in model.parameters()
            ),
            checkpoint=checkpoint,
            alias=aliases.get(name),
            cached=isinstance(try_to_load_from_cache(checkpoint, "model_index.json"), str),
        )


def query_key_bytes(backbone: Backbone, grid: TokenGrid) -> int:
    """Bytes of one layer's queries and keys of a clip's video tokens, in bfloat16."""
    return 2 * backbone.num_heads * backbone.num_channels * grid.num_tokens * _ITEMSIZE


_ITEMSIZE = torch.bfloat16.itemsize
