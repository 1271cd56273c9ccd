"""Chunks of descriptors, and what of them takes part in matching."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from difftrack.correspondence import Descriptors
from difftrack.tracking._params import TrackParams

__all__ = ["ChunkDescriptors", "Sources", "fused_sources"]

Sources = Sequence[tuple[int, int]]
"""(step, layer) pairs whose match probabilities are fused."""


@dataclass(frozen=True, slots=True)
class ChunkDescriptors:
    """Descriptors of frames that went through the backbone together; read when needed, one chunk at a time.

    Raises:
        ValueError: a chunk has fewer than two frames, or one of them twice.
    """

    frames: tuple[int, ...]
    """Video frame of each latent frame; the anchor first."""
    read: Callable[[int, int], Descriptors]
    """(step, layer) to query and key; a feature is given as both."""

    def __post_init__(self) -> None:
        if len(self.frames) < 2 or len(set(self.frames)) < len(self.frames):
            raise ValueError(f"a chunk's frames are {list(self.frames)}; two or more different ones are wanted")

    @property
    def anchor(self) -> int:
        """Video frame that all chunks of this anchor share."""
        return self.frames[0]


def fused_sources(
    chunk: ChunkDescriptors, sources: Sources, params: TrackParams
) -> tuple[list[Descriptors], list[Tensor] | None]:
    """Read the (step, layer) pairs of a chunk as the fusion wants them.

    Returns:
        (query, key) pairs whose match probabilities are to be averaged, and the weights of their heads; None means
        that all heads weigh the same.

    Raises:
        ValueError: a chunk's descriptors do not fit its frames, or a wanted head does not exist.
    """
    pairs = [chunk.read(step, layer) for step, layer in sources]
    for (step, layer), (query, key) in zip(sources, pairs, strict=True):
        if query.shape[1] != len(chunk.frames) or key.shape[:4] != query.shape[:4]:
            raise ValueError(
                f"step {step}, layer {layer}: query and key are {tuple(query.shape)} and {tuple(key.shape)} for a chunk"
                f" of {len(chunk.frames)} frames; wanted: [head, latent_frame, row, col, channel]"
            )
    if params.kind == "feature":
        return [(_joined(query, params), _joined(key, params)) for query, key in pairs], None
    weights = [_weights_of_heads(query, layer, params) for (_, layer), (query, _) in zip(sources, pairs, strict=True)]
    if params.concatenates_channels:
        pairs = [(torch.cat([query for query, _ in pairs], dim=-1), torch.cat([key for _, key in pairs], dim=-1))]
        weights = [torch.stack(weights).mean(dim=0)]
    return pairs, weights


def _joined(feature: Tensor, params: TrackParams) -> Tensor:
    """Fold the heads of a feature into its channels; with length 1, products are cosines."""
    joined = feature.float().movedim(0, -2).flatten(-2)[None]
    return normalize(joined, dim=-1) if params.matching_params.feature_similarity == "cosine" else joined


def _weights_of_heads(query: Tensor, layer: int, params: TrackParams) -> Tensor:
    num_heads = query.shape[0]
    if params.head_weights is not None:
        if layer not in params.head_weights:
            raise ValueError(f"head_weights has no entry for layer {layer}; known: {sorted(params.head_weights)}")
        return torch.tensor(params.head_weights[layer], dtype=torch.float32, device=query.device)
    if params.heads == "all":
        return torch.ones(num_heads, device=query.device)
    if not all(0 <= head < num_heads for head in params.heads):
        raise ValueError(f"heads is {list(params.heads)}; layer {layer} has heads 0 ... {num_heads - 1}")
    weights = torch.zeros(num_heads, device=query.device)
    weights[list(params.heads)] = 1.0
    return weights
