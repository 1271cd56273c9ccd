"""A grid over params: its axes, its points, and the measures at each point."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import yaml

from difftrack.documents import parse_yaml

__all__ = [
    "MEASURES",
    "SweepAxis",
    "SweepRow",
    "SweepError",
    "SweptStage",
    "grid",
    "laid_over",
    "read_axes",
    "show_value",
    "stages_of",
]

SweptStage = Literal["score", "track"]
"""A stage whose results a sweep measures; `match` runs before `score` if necessary."""

MEASURES: Mapping[SweptStage, Mapping[str, str]] = {
    "score": {
        "matching_accuracy": "matching accuracy",
        "feature_accuracy": "feature accuracy",
        "harmonic_mean": "harmonic mean",
    },
    "track": {"average_pts_within_thresh": "δ_avg", "average_jaccard": "AJ", "occlusion_accuracy": "OA"},
}
"""Stage -> measure -> its usual name; docs/metrics.md defines the measures."""

MOST_POINTS = 10_000
"""Maximum number of points in a grid; a larger grid is assumed to be a mistake."""

_READ_BY: Mapping[str, tuple[SweptStage, ...]] = {"match": ("score",), "score": ("score",), "track": ("track",)}
"""Section that can be swept -> stages whose results depend on it."""


class SweepError(ValueError):
    """A grid cannot be swept; the message names the argument and the valid choices."""


@dataclass(frozen=True, slots=True)
class SweepAxis:
    """One key of params.yaml with its values in a sweep."""

    key: str
    """Dotted key, for example track.motion_cost."""
    values: tuple[Any, ...]

    @property
    def section(self) -> str:
        """The section that contains the key."""
        return self.key.partition(".")[0]

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, so that a plot can place them on an axis."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One point of a grid with its measures."""

    backbone: str
    point: Mapping[str, Any]
    """Key -> value."""
    measures: Mapping[SweptStage, Mapping[str, float | None]]
    """Stage -> measure -> fraction; None if there is not a number."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Stage -> key of the cell with all other results."""
    as_in_params: bool = False
    """Whether the point equals the current params.yaml."""

    def row(self) -> dict[str, Any]:
        """Convert to a flat row of a table."""
        found: dict[str, Any] = {"backbone": self.backbone}
        found |= {key: show_value(value) for key, value in self.point.items()}
        for stage, values in self.measures.items():
            found |= {f"{stage}.{name}": value for name, value in values.items()}
        return found | {f"{stage}.cell": key for stage, key in self.cells.items()}


def read_axes(words: Sequence[str]) -> list[SweepAxis]:
    """Read the axes of a grid.

    Args:
        words: Arguments of the form `section.key=value,value,...`, with values in YAML: `track.layers=[6],[6, 7]`.

    Raises:
        SweepError: an argument is malformed, repeats a key or a value, or names a section that cannot be swept.
    """
    axes: list[SweepAxis] = []
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or "." not in key or not all(key.split(".")):
            raise SweepError(
                f"{word!r} is not a sweep; expected section.key=value,value, such as track.motion_cost=0,0.1"
            )
        try:
            values = parse_yaml(f"[{text}]")
        except yaml.YAMLError as error:
            raise SweepError(f"{word!r}: the values are not valid YAML: {' '.join(str(error).split())}") from error
        if not values:
            raise SweepError(f"{key} has no value; expected {key}=value,value")
        axis = SweepAxis(key, tuple(values))
        if axis.section not in _READ_BY:
            raise SweepError(
                f"{key} cannot be swept: a sweep only reads stored descriptors and supports {', '.join(_READ_BY)}; "
                f"change {axis.section} in params.yaml and run `difftrack repro` instead"
            )
        if key in [other.key for other in axes]:
            raise SweepError(f"{key} is given twice; give all its values in one argument")
        if len({repr(value) for value in values}) < len(values):
            raise SweepError(f"{word!r} repeats a value; give each value once")
        axes.append(axis)
    if not axes:
        raise SweepError("nothing to sweep; expected section.key=value,value, such as track.motion_cost=0,0.1,0.3")
    if (count := math.prod(len(axis.values) for axis in axes)) > MOST_POINTS:
        raise SweepError(f"the grid has {count} points; the maximum is {MOST_POINTS}")
    return axes


def stages_of(axes: Sequence[SweepAxis], on: str | None = None) -> tuple[SweptStage, ...]:
    """Determine the stages whose results a sweep measures.

    Args:
        axes: Axes of the grid.
        on: Comma-separated names of stages; None selects the stages that depend on any axis.

    Raises:
        SweepError: a stage is unknown.
    """
    if on is None:
        reached = {stage for axis in axes for stage in _READ_BY[axis.section]}
        return tuple(stage for stage in MEASURES if stage in reached)
    named = [name.strip() for name in on.split(",")]
    if unknown := [name for name in named if name not in MEASURES]:
        raise SweepError(f"--on names {unknown[0]!r}; the stages are {', '.join(MEASURES)}")
    return tuple(stage for stage in MEASURES if stage in named)


def grid(axes: Sequence[SweepAxis]) -> Iterator[dict[str, Any]]:
    """Yield all points of a grid, key -> value; the last axis changes fastest."""
    for values in product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def laid_over(params: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the params with the values of a point.

    Raises:
        SweepError: a parent of a key is not a section.
    """
    changed = deepcopy(dict(params))
    for key, value in point.items():
        *sections, last = key.split(".")
        inner: Any = changed
        for section in sections:
            if inner.get(section) is None:
                inner[section] = {}
            inner = inner[section]
            if not isinstance(inner, dict):
                raise SweepError(f"{key} cannot be set: {section} is {inner!r}, which is not a section")
        inner[last] = deepcopy(value)
    return changed


def show_value(value: Any) -> str:  # noqa: ANN401 - any value of params.yaml
    """Format a value as in params.yaml, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
