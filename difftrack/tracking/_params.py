"""Every choice between stored descriptors and finished tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from difftrack.correspondence import Convention, MatchingParams

__all__ = ["TrackParams", "VisibilityParams"]

_TRACKING_PRESETS: dict[str, dict[str, Any]] = {
    "corrected": {"read_out": "displacements", "window_radius": 1},
    "released": {"temperature": "root_heads"},
}
"""What tracking sets on top of the matching presets."""


@dataclass(frozen=True, slots=True)
class VisibilityParams:
    """When a point counts as seen: where its confidence is high enough, and its position lies inside the picture.

    Raises:
        ValueError: a threshold is out of its range.
    """

    predict: bool | None = None
    """False calls every point visible, as published; under `corrected` all that lie inside the picture. Null: true
    under `corrected`, else false."""
    min_confidence: float = 0.5
    """A point is visible where the probability that it is seen is at least this. At 0.5 the more probable of the two
    answers is given."""
    max_cycle_error_token: float | None = None
    """A second test: the match of a match lies at most this far from where it started, in tokens; null: none."""
    min_margin: float = 0.0
    """A third test: a match stands out by at least this, 1 - (best probability more than one token away) / best,
    0 ... 1. 0 switches the test off."""

    def __post_init__(self) -> None:
        if self.max_cycle_error_token is not None and not self.max_cycle_error_token > 0:
            raise ValueError(f"max_cycle_error_token is {self.max_cycle_error_token}; it must be positive, or null")
        for name in ("min_confidence", "min_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0 ... 1")


@dataclass(frozen=True, slots=True)
class TrackParams:
    """How cached descriptors become tracks; nothing here makes the model run again. Null takes the convention's value.

    Raises:
        ParamsError: an override of the matching is unknown or has a wrong value.
        ValueError: a value is out of its range, or two of them exclude each other.
    """

    convention: Convention = "corrected"
    """`released` reads descriptors as the released code does, bugs included; `corrected` as well as we can."""
    layers: Literal["best", "stored"] | tuple[int, ...] = "stored"
    """Layers to fuse: the best one by the scores, all that are stored, or these."""
    steps: Literal["stored"] | tuple[int, ...] = "stored"
    """Denoising steps to fuse."""
    kind: Literal["query_key", "feature"] = "query_key"
    """Descriptors to match: queries with keys, or features with features by cosine."""
    heads: Literal["all"] | tuple[int, ...] | Mapping[int, tuple[int, ...]] = "all"
    """Heads that take part, with equal weight within their layer: the same in every layer, or `{layer: heads}`."""
    head_weights: Mapping[int, tuple[float, ...]] | None = None
    """One weight per stored head for each layer; weight 0 leaves a head out. Excludes `heads`."""
    fusion: Literal["probability", "channel"] | None = None
    """Several (layer, step): average their match probabilities (corrected), or concatenate their channels (released),
    which lowers the temperature with every layer added (A4)."""
    overlap: Literal["average", "first"] | None = None
    """Frames in several chunks: average the match probabilities (corrected), or keep the first (released)."""
    matching: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of single matching params, such as `window_radius`; null keeps the convention's value for tracking."""
    visibility: VisibilityParams = VisibilityParams()
    """When a match counts as seen."""
    motion_cost: float | None = None
    """Cost of a squared step per frame, beside the logarithm of what speaks for a position, where tokens around a point
    disagree (`read_out: displacements`). Steps are in tokens, or in units of the point's own typical step where that is
    longer. 0 takes what most tokens say in every frame. Null: 0.1 under `corrected`, else 0."""
    matches_per_token: int = 1
    """Candidates of every token around a point, from which a path is chosen: its best match, the best of those more
    than two tokens away from it, and so on. Matters where motion costs. More than one helps where the heads that match
    were picked, and harms where all of them blur the second match."""
    motion_limit_token: float = 5.0
    """A step that is longer costs no more."""
    smoothing_radius: int | None = None
    """Smooth over 2 r + 1 frames within one visible stretch; 0 is off. Null: 2 under `corrected`, else 0."""
    smoothing_limit_token: float = 0.15
    """Frames before and after that would move a position farther than this, in tokens, are left out: that is motion or
    a wrong match, not jitter."""
    cuts: Literal["end", "ignore"] | None = None
    """At cuts between scenes: tracks end, so that a point is invisible outside the scene of its query (corrected), or
    go on (released)."""
    device: str = "auto"
    """Where matching runs: cpu, cuda, cuda:1 ...; auto is cuda where there is one."""

    def __post_init__(self) -> None:
        if self.smoothing_radius is not None and self.smoothing_radius < 0:
            raise ValueError(f"smoothing_radius is {self.smoothing_radius}; it must be at least 0")
        if self.motion_cost is not None and self.motion_cost < 0:
            raise ValueError(f"motion_cost is {self.motion_cost}; it must be at least 0")
        if self.matches_per_token < 1:
            raise ValueError(f"matches_per_token is {self.matches_per_token}; it must be at least 1")
        if not self.motion_limit_token > 0:
            raise ValueError(f"motion_limit_token is {self.motion_limit_token}; it must be positive")
        if not self.smoothing_limit_token > 0:
            raise ValueError(f"smoothing_limit_token is {self.smoothing_limit_token}; it must be positive")
        if self.kind == "feature":
            self._check_feature()
        if self.head_weights is not None and self.heads != "all":
            raise ValueError(f"heads is {_plain(self.heads)} beside head_weights; give one of the two")
        for name in ("layers", "steps", "heads"):
            if getattr(self, name) in ((), {}):
                raise ValueError(f"{name} is empty; name at least one")
        if isinstance(self.heads, Mapping) and (empty := sorted(k for k, heads in self.heads.items() if not heads)):
            raise ValueError(f"heads is empty for layers {empty}; name at least one each")
        _ = self.matching_params

    def _check_feature(self) -> None:
        """Refuse what has no meaning where all heads of a feature are one vector."""
        if self.heads != "all" or self.head_weights is not None:
            raise ValueError("kind is feature, which joins all heads: set heads to all, and no head_weights")
        if self.matching.get("temperature") is not None:
            raise ValueError("kind is feature and matching names temperature; its own is feature_temperature")

    def heads_of(self, layer: int, stored: Sequence[int]) -> tuple[int, ...]:
        """Heads of a layer that take part, out of those that are stored; `head_weights` is not looked at.

        Raises:
            ValueError: a head is not stored, or `heads` names layers, and not this one.
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
    def matching_params(self) -> MatchingParams:
        """Matching params of the convention, those that tracking sets, and the overrides, later ones first."""
        chosen = {name: value for name, value in self.matching.items() if value is not None}
        overrides = {**_TRACKING_PRESETS[self.convention], **chosen}
        params = MatchingParams.preset(self.convention, overrides, section="track.matching")
        return replace(params, temperature=params.feature_temperature) if self.kind == "feature" else params

    @property
    def averages_overlap(self) -> bool:
        """Whether frames in several chunks average their match probabilities."""
        return self.overlap == "average" if self.overlap else self.convention == "corrected"

    @property
    def concatenates_channels(self) -> bool:
        """Whether several (layer, step) are fused along their channels."""
        return self.fusion == "channel" if self.fusion else self.convention == "released"

    @property
    def predicts_visibility(self) -> bool:
        """Whether points can be called invisible."""
        predict = self.visibility.predict
        return self.convention == "corrected" if predict is None else predict

    @property
    def costs_motion(self) -> float:
        """What a squared token of motion per frame costs; 0 where every frame is decided by itself."""
        preset = 0.1 if self.convention == "corrected" else 0.0
        return preset if self.motion_cost is None else self.motion_cost

    @property
    def num_candidates(self) -> int:
        """Positions of a point in every frame from which a path is chosen; 1 where none is."""
        matching = self.matching_params
        if not self.costs_motion or matching.read_out != "displacements":
            return 1
        return self.matches_per_token * (2 * matching.support_radius) ** 2

    @property
    def ends_at_cuts(self) -> bool:
        """Whether a track ends where the scene of its query does."""
        return self.cuts == "end" if self.cuts else self.convention == "corrected"

    @property
    def smooths_over(self) -> int:
        """Frames to either side over which positions are smoothed; 0 for none."""
        preset = 2 if self.convention == "corrected" else 0
        return preset if self.smoothing_radius is None else self.smoothing_radius


def _plain(heads: tuple[int, ...] | Mapping[int, tuple[int, ...]]) -> str:
    return str({layer: list(own) for layer, own in heads.items()} if isinstance(heads, Mapping) else list(heads))
