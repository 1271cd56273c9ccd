"""Chunks of descriptors, and the selection of them that is matched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from difftrack.correspondence import Descriptors, comparable
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout
from difftrack.tracking._params import TrackParams

__all__ = ["ChunkDescriptors", "FusionInputs", "Sources", "fused_sources"]

Sources = Sequence[tuple[int, int]]
"""(step, layer) pairs whose match probabilities are fused."""


@dataclass(frozen=True, slots=True)
class ChunkDescriptors:
    """Descriptors of frames that ran through the backbone together; read when needed, one chunk at a time.

    Raises:
        ValueError: a chunk has fewer than two frames, or a duplicate.
    """

    frames: tuple[int, ...]
    """Video frame of each latent frame; the anchor first."""
    read: Callable[[int, int], Descriptors]
    """(step, layer) -> query and key; a kind that is matched with itself is the same object twice."""
    heads: tuple[int, ...] | None = None
    """Labels of the head axis; None if it holds all heads in order."""
    rotary: RotaryLayout | None = None
    """Channels that rotary positions turn; needed where frequencies are chosen."""

    def __post_init__(self) -> None:
        if len(self.frames) < 2 or len(set(self.frames)) < len(self.frames):
            raise ValueError(f"a chunk's frames are {list(self.frames)}; expected two or more different ones")

    @property
    def anchor(self) -> int:
        """Video frame that all chunks of this anchor share."""
        return self.frames[0]


@dataclass(frozen=True, slots=True)
class FusionInputs:
    """Which descriptors of chunks are read, and how they are matched."""

    sources: Sources
    grid: TokenGrid
    """Rows, columns and stride of the tokens; chunks may differ in their number of frames."""
    params: TrackParams


def fused_sources(chunk: ChunkDescriptors, fusion: FusionInputs) -> tuple[list[Descriptors], list[Tensor] | None]:
    """Read the (step, layer) pairs of a chunk for the fusion.

    Returns:
        (query, key) pairs of the heads that take part, whose match probabilities are to be averaged, and the weights
        of their heads; None means equal weights.

    Raises:
        ValueError: the descriptors do not fit the chunk's frames or the grid, or a selected head does not exist.
    """
    pairs = [chunk.read(step, layer) for step, layer in fusion.sources]
    shape = (len(chunk.frames), fusion.grid.rows, fusion.grid.cols)
    for (step, layer), (query, key) in zip(fusion.sources, pairs, strict=True):
        if not query.shape[1:4] == key.shape[1:4] == shape:
            raise ValueError(
                f"step {step}, layer {layer}: query {list(query.shape)} and key {list(key.shape)} do not fit; expected "
                f"[head, latent_frame, row, col, channel] with {list(shape)} in the middle"
            )
    if fusion.params.kind == "feature":
        return [_comparable(pair, chunk, fusion.params) for pair in pairs], None
    layers, by_channel = [layer for _, layer in fusion.sources], fusion.params.fusion == "channel"
    if fusion.params.head_weights is not None:
        weights = [_weights_of_heads(layer, fusion.params) for layer in layers]
        pairs = [_comparable(pair, chunk, fusion.params) for pair in pairs]
        return _side_by_side(pairs, weights) if by_channel else (pairs, weights)
    places = [
        _places_of_heads(query, layer, chunk, fusion.params) for layer, (query, _) in zip(layers, pairs, strict=True)
    ]
    if by_channel and any(own != places[0] for own in places):
        masks = [_mask(own, len(query)) for own, (query, _) in zip(places, pairs, strict=True)]
        return _side_by_side([_comparable(pair, chunk, fusion.params) for pair in pairs], masks)
    chosen = (_of_heads(pair, own) for own, pair in zip(places, pairs, strict=True))
    pairs = [_comparable(pair, chunk, fusion.params) for pair in chosen]
    return (_side_by_side(pairs)[0] if by_channel else pairs), None


def _comparable(pair: Descriptors, chunk: ChunkDescriptors, params: TrackParams) -> Descriptors:
    """Return the descriptors that the kind compares; `matching_of` gives the temperature."""
    found, _ = comparable(
        pair, params.kind, params=params.matching, frequencies=params.frequencies, rotary=chunk.rotary
    )
    return found


def _of_heads(pair: Descriptors, places: Sequence[int]) -> Descriptors:
    """Select heads of both; copies nothing if all are selected, and keeps a shared object shared."""
    query, key = pair
    if list(places) == list(range(len(query))):
        return pair
    chosen = query[list(places)]
    return chosen, chosen if key is query else key[list(places)]


def _side_by_side(
    pairs: Sequence[Descriptors], weights: Sequence[Tensor] = ()
) -> tuple[list[Descriptors], list[Tensor] | None]:
    """Join the channels of several pairs head by head; a head takes the mean of its weights."""
    joined = (torch.cat([query for query, _ in pairs], dim=-1), torch.cat([key for _, key in pairs], dim=-1))
    return [joined], [torch.stack(list(weights)).mean(dim=0)] if weights else None


def _weights_of_heads(layer: int, params: TrackParams) -> Tensor:
    known = params.head_weights or {}
    if layer not in known:
        raise ValueError(f"head_weights has no entry for layer {layer}; known: {sorted(known)}")
    return torch.tensor(known[layer], dtype=torch.float32)


def _places_of_heads(query: Tensor, layer: int, chunk: ChunkDescriptors, params: TrackParams) -> list[int]:
    """Return the positions of the selected heads on the head axis."""
    heads = list(range(len(query))) if chunk.heads is None else list(chunk.heads)
    chosen = params.heads_of(layer, heads)
    return [place for place, head in enumerate(heads) if head in chosen]


def _mask(places: Sequence[int], num_heads: int) -> Tensor:
    return torch.tensor([float(place in places) for place in range(num_heads)])
