"""Summarises each named backbone in numbers, without loading one."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from difftrack.backbones._counts import counts_of
from difftrack.backbones._names import ALIASES, CHECKPOINTS
from difftrack.backbones._registry import KNOWN
from difftrack.geometry import TokenGrid

__all__ = ["BackboneSummary", "summaries"]


@dataclass(frozen=True, slots=True)
class BackboneSummary:
    """One row of the table of backbones, with counts from its classes."""

    name: str
    num_layers: int
    num_heads: int
    num_channels: int
    size: tuple[int, int, int]
    """(frames, height, width) of its default clips."""
    grid: TokenGrid
    """Number of their tokens."""
    query_key_bytes: int
    """Bytes of the video's queries and keys of one layer at one step, in bfloat16."""
    transformer_bytes: int
    """Bytes of the transformer's weights, or of both experts', in bfloat16."""
    checkpoint: str
    alias: str | None
    """Its name in the released code."""
    cached: bool
    """Whether the checkpoint's model index is in the local cache."""


def summaries(names: Collection[str] | None = None) -> Iterator[BackboneSummary]:
    """Return one row for each named backbone, or only for the given names or aliases."""
    from huggingface_hub import try_to_load_from_cache

    aliases = {name: alias for alias, name in ALIASES.items()}
    wanted = None if names is None else {ALIASES.get(name, name) for name in names}
    for name, checkpoint in CHECKPOINTS.items():
        if wanted is not None and name not in wanted:
            continue
        counts, size = counts_of(name), KNOWN[name].size
        yield BackboneSummary(
            name=name,
            num_layers=counts.num_layers,
            num_heads=counts.num_heads,
            num_channels=counts.num_channels,
            size=size,
            grid=counts.grid,
            query_key_bytes=2 * counts.num_heads * counts.num_channels * counts.grid.num_tokens * _ITEMSIZE,
            transformer_bytes=counts.num_parameters * _ITEMSIZE,
            checkpoint=checkpoint,
            alias=aliases.get(name),
            cached=isinstance(try_to_load_from_cache(checkpoint, "model_index.json"), str),
        )


_ITEMSIZE = 2
"""Bytes of a number in bfloat16."""
