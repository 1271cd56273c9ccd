"""Every setting between stored descriptors and finished tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from difftrack.correspondence import CORRECTED, RELEASED, MatchingParams, MatchKind
from difftrack.params import Convention, Conventional, by_convention
from difftrack.rotary import ALL_FREQUENCIES, FrequencyBands

__all__ = ["TrackParams", "VisibilityParams"]


@dataclass(frozen=True, slots=True)
class VisibilityParams:
    """When a point counts as visible: its confidence is high enough, and its position lies inside the picture.

    Raises:
        ValueError: a threshold is out of its range.
    """

    predict: bool = True
    """False marks every point as visible, as published; under `corrected` only those inside the picture."""
    min_confidence: float = 0.5
    """A point is visible where the probability that it is seen is at least this."""
    max_cycle_error_token: float | None = None
    """A second test: the match of a match lies at most this many tokens from its start; null switches the test off."""
    min_margin: float = 0.0
    """A third test: minimum distinctness of a match, 1 - (best probability more than one token away) / best, 0 ... 1. 0
    switches the test off.
    """

    def __post_init__(self) -> None:
        if self.max_cycle_error_token is not None and not self.max_cycle_error_token > 0:
            raise ValueError(f"max_cycle_error_token is {self.max_cycle_error_token}; it must be positive, or null")
        for name in ("min_confidence", "min_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0 ... 1")


_CORRECTED = replace(CORRECTED, read_out="displacements", window_radius=1)
_RELEASED = replace(RELEASED, temperature="root_heads")
"""What tracking sets on top of the conventions of matching."""


@dataclass(frozen=True, slots=True)
class TrackParams(Conventional):
    """How cached descriptors become tracks; no change here runs the model again.

    Raises:
        ValueError: a value is out of its range, or two values exclude each other.
    """

    convention: Convention = "corrected"
    """`released` reads descriptors as the released code does, including its bugs; `corrected` without them."""
    layers: Literal["best", "stored"] | tuple[int, ...] = "stored"
    """Layers to fuse: the best by the scores, all stored ones, or a list."""
    steps: Literal["stored"] | tuple[int, ...] = "stored"
    """Denoising steps to fuse."""
    kind: MatchKind = "query_key"
    """Descriptors to match: queries with keys, or a kind with itself by cosine."""
    frequencies: FrequencyBands = ALL_FREQUENCIES
    """Bands of rotary frequencies of queries and keys that take part."""
    heads: Literal["all"] | tuple[int, ...] | Mapping[int, tuple[int, ...]] = "all"
    """Heads that take part, with equal weight within their layer: the same in every layer, or `{layer: heads}`."""
    head_weights: Mapping[int, tuple[float, ...]] | None = None
    """One weight per stored head for each layer; weight 0 leaves a head out. Excludes `heads`."""
    fusion: Literal["probability", "channel"] = by_convention("probability", "channel")
    """Several (layer, step): average their match probabilities, or concatenate their channels, which lowers the
    temperature with every added layer (A4).
    """
    overlap: Literal["average", "first"] = by_convention("average", "first")
    """Frames in several chunks: average the match probabilities, or keep the first."""
    matching: MatchingParams = by_convention(_CORRECTED, _RELEASED)
    """How descriptors become matches; omitted keys take the convention's values for tracking."""
    visibility: VisibilityParams = by_convention(VisibilityParams(), VisibilityParams(predict=False))
    """When a point counts as visible."""
    motion_cost: float = by_convention(0.1, 0.0)
    """Penalty per squared token of motion between frames, against the log share of votes, where tokens around a point
    disagree (`read_out: displacements`). Steps of a fast point are in units of its own typical step. They cost only
    between sharply matched frames, or for a point that hardly jitters. A match that leads back to within a token stays.
    0 takes each frame's best candidate.
    """
    matches_per_token: int = 1
    """Candidates of every token around a point, from which a path is chosen: its best match, the best of those more
    than two tokens away from it, and so on. Has an effect only with `motion_cost`. More than one helps with selected
    heads, and harms with all heads, which blur the second match.
    """
    motion_limit_token: float = 5.0
    """Longer steps cost no more than one of this length, in tokens."""
    smoothing_radius: int = by_convention(2, 0)
    """Smooth over 2 r + 1 frames, with lines or parabolas depending on each point's motion; 0 is off. It applies where
    the point is visible in all of these frames, its match leads back to within a token, and the frame is matched
    sharply or the point hardly jitters.
    """
    smoothing_limit_token: float = 0.35
    """Positions that smoothing would move farther than this, in tokens, stay unchanged: that is motion or a wrong
    match, not jitter.
    """
    cuts: Literal["end", "ignore"] = by_convention("end", "ignore")
    """end: tracks end at cuts, so a point is invisible outside the scene of its query. ignore: tracks continue."""
    device: str = "auto"
    """Device for matching: cpu, cuda, cuda:1 ...; auto is cuda where there is one."""

    def __post_init__(self) -> None:
        self._settle()
        if self.smoothing_radius < 0:
            raise ValueError(f"smoothing_radius is {self.smoothing_radius}; it must be at least 0")
        if self.motion_cost < 0:
            raise ValueError(f"motion_cost is {self.motion_cost}; it must be at least 0")
        if self.matches_per_token < 1:
            raise ValueError(f"matches_per_token is {self.matches_per_token}; it must be at least 1")
        if not self.motion_limit_token > 0:
            raise ValueError(f"motion_limit_token is {self.motion_limit_token}; it must be positive")
        if not self.smoothing_limit_token > 0:
            raise ValueError(f"smoothing_limit_token is {self.smoothing_limit_token}; it must be positive")
        if self.kind in ("value", "feature") and not self.frequencies.keeps_all:
            raise ValueError(f"kind is {self.kind}, which has no rotary positions: leave frequencies out")
        if self.kind not in ("query_key", "query_key_pre_rotary"):
            self._check_same_kind()
        if self.head_weights is not None and self.heads != "all":
            raise ValueError(f"heads is {_plain(self.heads)}, but head_weights is also set; give one of the two")
        for name in ("layers", "steps", "heads"):
            if getattr(self, name) in ((), {}):
                raise ValueError(f"{name} is empty; name at least one")
        if isinstance(self.heads, Mapping) and (empty := sorted(k for k, heads in self.heads.items() if not heads)):
            raise ValueError(f"heads is empty for layers {empty}; name at least one each")

    def _check_same_kind(self) -> None:
        """Refuse params without meaning for a kind that is matched with itself, or whose heads form one vector."""
        if self.kind == "feature" and (self.heads != "all" or self.head_weights is not None):
            raise ValueError("kind is feature, which joins all heads: set heads to all, and no head_weights")
        if self.matching.temperature != (_RELEASED if self.convention == "released" else _CORRECTED).temperature:
            raise ValueError(f"kind is {self.kind}, but matching sets temperature; set feature_temperature instead")

    def heads_of(self, layer: int, stored: Sequence[int]) -> tuple[int, ...]:
        """Return the heads of a layer that take part, out of those stored; ignores `head_weights`.

        Raises:
            ValueError: a head is not stored, or `heads` names layers but not this one.
        """
        if self.heads == "all":
            return tuple(stored)
        if isinstance(self.heads, Mapping) and layer not in self.heads:
            raise ValueError(f"heads has no entry for layer {layer}; known: {sorted(self.heads)}")
        heads = self.heads[layer] if isinstance(self.heads, Mapping) else self.heads
        if unknown := sorted(set(heads) - set(stored)):
            raise ValueError(f"heads {unknown} are not in layer {layer}; there are {list(stored)}")
        return heads

    @property
    def num_candidates(self) -> int:
        """Number of candidates per point and frame for the path; 1 without a path."""
        if not self.motion_cost or self.matching.read_out != "displacements":
            return 1
        return self.matches_per_token * (2 * self.matching.support_radius) ** 2


def _plain(heads: tuple[int, ...] | Mapping[int, tuple[int, ...]]) -> str:
    return str({layer: list(own) for layer, own in heads.items()} if isinstance(heads, Mapping) else list(heads))
