"""The page's questions as typed objects, parsed from JSON with limits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from difftrack.correspondence import MatchingParams, MatchKind
from difftrack.params import Convention
from difftrack.rotary import ALL_FREQUENCIES, FrequencyBands

__all__ = [
    "AttentionQuestion",
    "CellsQuestion",
    "Lens",
    "MapsQuestion",
    "MatchQuestion",
    "PointsQuestion",
    "TrackQuestion",
    "WordQuestion",
]

MOST_POINTS = 64
"""Maximum number of points in one question."""

Point = tuple[int, float, float]
"""(frame, x, y), x and y in pixels of the clip."""

Measure = Literal["error", "cycle", "margin", "entropy", "probability"]
"""Value of a cell of a map: distance from the true track or from the start after matching back (pixels of the clip),
best less second-best probability, entropy of the match probabilities as a share of that of a uniform row, or the best
probability."""


@dataclass(frozen=True, slots=True)
class Lens:
    """The descriptors through which a point is viewed, and how they are matched.

    Raises:
        ValueError: a number is out of its range, or weights do not fit the heads.
    """

    store: str
    clip: str
    step: int
    layer: int
    kind: MatchKind = "query_key"
    """Kind of matching."""
    frequencies: FrequencyBands = ALL_FREQUENCIES
    """Bands of rotary frequencies of queries and keys that take part."""
    heads: Literal["all"] | tuple[int, ...] = "all"
    weights: tuple[float, ...] | None = None
    """One weight for each of `heads`, which must then be listed; None gives equal weights."""
    direction: Literal["both", "forward", "back"] = "both"
    """Softmax from the source over the target's tokens (`forward`), from the target over the source's (`back`), or the
    mean of the two, as in `MatchingParams.directions`."""
    temperature: Literal["root_channel", "root_heads"] | float = "root_channel"
    """Temperature of the softmax of queries with keys. A number also divides the cosines of a kind with itself."""
    window: int = 0
    """Soft-argmax over (2 r + 1)^2 tokens around the best one; 0 gives the best token."""
    convention: Convention = "corrected"

    def __post_init__(self) -> None:
        if self.heads == ():
            raise ValueError("heads is empty; name at least one")
        if self.weights is not None and (self.heads == "all" or len(self.weights) != len(self.heads)):
            raise ValueError(f"weights has {len(self.weights)} numbers; expected one for each head that is listed")
        if not 0 <= self.window <= 5:
            raise ValueError(f"window is {self.window}; it must lie in 0 ... 5")

    def matching(self, directions: Literal["both", "forward"] | None = None) -> MatchingParams:
        """Return the library's params for matching.

        Args:
            directions: Overrides `direction`.
        """
        wanted = directions or ("forward" if self.direction == "forward" else "both")
        preset = MatchingParams.preset(self.convention)
        own = preset.feature_temperature if isinstance(self.temperature, str) else self.temperature
        return replace(
            preset,
            directions=wanted,
            temperature=self.temperature,
            feature_temperature=own,
            window_radius=self.window,
        )

    def only_head(self, head: int) -> "Lens":
        """Return the same lens for one head."""
        return replace(self, heads=(head,), weights=None)


@dataclass(frozen=True, slots=True)
class _Pointed:
    lens: Lens
    point: Point

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for number in self.point):
            raise ValueError(f"point is {list(self.point)}; its numbers must be finite")


@dataclass(frozen=True, slots=True)
class MatchQuestion(_Pointed):
    """Match a point in all frames that ran through the backbone together with its own."""

    top_k: int = 1
    """Number of most probable tokens of every frame."""
    maps: bool = True
    """Also return the match probabilities."""
    cycle: bool = False
    """Also match the matches back."""

    def __post_init__(self) -> None:
        _Pointed.__post_init__(self)
        if not 1 <= self.top_k <= 20:
            raise ValueError(f"top_k is {self.top_k}; it must lie in 1 ... 20")


@dataclass(frozen=True, slots=True)
class MapsQuestion(_Pointed):
    """Match a point in one frame through every head, layer or step."""

    target: int = 0
    """The video frame."""
    axis: Literal["head", "layer", "step"] = "head"


@dataclass(frozen=True, slots=True)
class CellsQuestion(_Pointed):
    """Measure how well a point is matched in every cell of a map: layer x step, or head x layer."""

    axes: Literal["layer_step", "head_layer"] = "layer_step"
    measure: Measure = "margin"


@dataclass(frozen=True, slots=True)
class AttentionQuestion(_Pointed):
    """Split the model's own attention of a point by target: own frame, other frames, text."""


@dataclass(frozen=True, slots=True)
class WordQuestion:
    """Map the attention of all tokens to a word of the clip's prompt."""

    lens: Lens
    word: str
    """A word or phrase."""


@dataclass(frozen=True, slots=True)
class PointsQuestion:
    """Find the true tracks of points, and tracks by other trackers."""

    clip: str
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        _check_points(self.points)


@dataclass(frozen=True, slots=True)
class TrackQuestion:
    """Track points with some options, or score the tracker on the clip's known tracks."""

    store: str
    clip: str
    points: tuple[Point, ...] = ()
    """May be empty to score the clip's known tracks."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the section `track`."""

    def __post_init__(self) -> None:
        _check_points(self.points)


def _check_points(points: tuple[Point, ...]) -> None:
    if len(points) > MOST_POINTS:
        raise ValueError(f"points holds {len(points)}; at most {MOST_POINTS} are allowed")
    for point in points:
        if not all(math.isfinite(number) for number in point):
            raise ValueError(f"points holds {list(point)}; numbers must be finite")
