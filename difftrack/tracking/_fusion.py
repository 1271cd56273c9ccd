"""Fuses match probabilities between two frames over (layer, step), heads and the chunks that hold both."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence import Descriptors, MatchingParams, match_rows
from difftrack.tracking._chunks import ChunkDescriptors, FusionInputs, fused_sources

__all__ = ["FramePair", "fused_frame_pairs"]


@dataclass(frozen=True, slots=True)
class FramePair:
    """Two video frames and the match probabilities between all of their tokens."""

    source: int
    target: int
    there: Float[Tensor, "source_token target_token"]
    """Probabilities of each source token over the target's tokens."""
    back: Float[Tensor, "target_token source_token"]
    """Probabilities of each target token over the source's tokens."""

    def plus(self, other: "FramePair") -> "FramePair":
        """Add the probabilities of another chunk."""
        return replace(self, there=self.there + other.there, back=self.back + other.back)

    def divided_by(self, count: int) -> "FramePair":
        """Turn a sum over chunks into their mean."""
        return self if count == 1 else replace(self, there=self.there / count, back=self.back / count)


def fused_frame_pairs(
    chunks: Sequence[ChunkDescriptors], source_frames: Collection[int], fusion: FusionInputs
) -> Iterator[FramePair]:
    """Match every token of some frames with every token of all frames that share a chunk with them.

    Chunks are read one after the other, each at most once; a pair of frames is kept only while a later chunk holds it.

    Args:
        chunks: Descriptors.
        source_frames: Video frames to match from; chunks without any of them are not read.
        fusion: Which descriptors to read, and how to match and fuse them.

    Yields:
        Each pair of frames once, after its last chunk.
    """
    expected = Counter(pair for chunk in chunks for pair in _pairs_in(chunk, source_frames))
    seen: Counter[tuple[int, int]] = Counter()
    sums: dict[tuple[int, int], FramePair] = {}
    for chunk in chunks:
        if not any(pair in expected for pair in _pairs_in(chunk, source_frames)):
            continue
        for pair in _match_within(chunk, source_frames, fusion):
            at = (pair.source, pair.target)
            if at not in expected:
                continue
            seen[at] += 1
            sums[at] = sums[at].plus(pair) if at in sums else pair
            if seen[at] == expected[at] or fusion.params.overlap == "first":
                yield sums.pop(at).divided_by(seen[at])
                del expected[at]


def _pairs_in(chunk: ChunkDescriptors, source_frames: Collection[int]) -> list[tuple[int, int]]:
    sources = [frame for frame in chunk.frames if frame in source_frames]
    return [(source, target) for source in sources for target in chunk.frames if target != source]


def _match_within(chunk: ChunkDescriptors, source_frames: Collection[int], fusion: FusionInputs) -> Iterator[FramePair]:
    """Match the source frames of one chunk in its other frames, in batches that fit the memory limit."""
    pairs, weights = fused_sources(chunk, fusion)
    matching = fusion.params.matching
    if fusion.params.kind not in ("query_key", "query_key_pre_rotary"):  # cosines have a temperature of their own
        matching = replace(matching, temperature=matching.feature_temperature)
    num_tokens = fusion.grid.tokens_per_frame
    every_token = torch.arange(num_tokens, device=pairs[0][0].device)
    batch = max(1, matching.memory_limit_mb * 2**20 // (8 * num_tokens**2))
    for source, frame in enumerate(chunk.frames):
        if frame not in source_frames:
            continue
        for around in (range(source), range(source + 1, len(chunk.frames))):
            for start in around[::batch]:
                targets = range(start, min(start + batch, around.stop))
                there, back = _both_ways(pairs, every_token, source, targets, matching, weights)
                for index, target in enumerate(targets):
                    yield FramePair(frame, chunk.frames[target], there[index], back[index])


def _both_ways(
    pairs: Sequence[Descriptors],
    every_token: Int[Tensor, " token"],
    source: int,
    targets: range,
    matching: MatchingParams,
    weights: Sequence[Tensor] | None,
) -> tuple[Float[Tensor, "target_frame token token"], Float[Tensor, "target_frame token token"]]:
    """Compute probabilities from the source frame to the targets and back; averaged directions share one matrix."""
    there = match_rows(
        pairs, every_token, source_frame=source, target_frames=targets, params=matching, head_weights=weights
    )
    if matching.directions == "both":
        return there, there.transpose(1, 2)
    back = [
        match_rows(
            pairs,
            every_token,
            source_frame=target,
            target_frames=range(source, source + 1),
            params=matching,
            head_weights=weights,
        )
        for target in targets
    ]
    return there, torch.cat(back)
