"""A grid over params: its axes, its points, and what was measured at each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import yaml

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
"""A stage whose results a sweep measures; `match` runs before `score` where it has to."""

MEASURES: Mapping[SweptStage, Mapping[str, str]] = {
    "score": {
        "matching_accuracy": "matching accuracy",
        "feature_accuracy": "feature accuracy",
        "harmonic_mean": "harmonic mean",
    },
    "track": {"average_pts_within_thresh": "δ_avg", "average_jaccard": "AJ", "occlusion_accuracy": "OA"},
}
"""By stage, what is measured and what people call it; docs/metrics.md defines each."""

MOST_POINTS = 10_000
"""Of a grid: more is a slip of the pen."""

_READ_BY: Mapping[str, tuple[SweptStage, ...]] = {"match": ("score",), "score": ("score",), "track": ("track",)}
"""By section that may be swept, the stages whose results depend on it."""


class SweepError(ValueError):
    """A grid cannot be swept; the message names the word, and what can be."""


@dataclass(frozen=True, slots=True)
class SweepAxis:
    """One key of params.yaml, and the values that it takes."""

    key: str
    """Such as track.motion_cost."""
    values: tuple[Any, ...]

    @property
    def section(self) -> str:
        """The section that the key lies in."""
        return self.key.partition(".")[0]

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, which a picture can place along a line."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One point of a grid, and what came out there."""

    backbone: str
    point: Mapping[str, Any]
    """Key -> value."""
    measures: Mapping[SweptStage, Mapping[str, float | None]]
    """Fractions, by stage and name; None where there is no number."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Stage -> key of the cell that holds everything else."""
    as_in_params: bool = False
    """Whether this is what params.yaml says now."""

    def row(self) -> dict[str, Any]:
        """A row of a table of numbers."""
        found: dict[str, Any] = {"backbone": self.backbone}
        found |= {key: show_value(value) for key, value in self.point.items()}
        for stage, values in self.measures.items():
            found |= {f"{stage}.{name}": value for name, value in values.items()}
        return found | {f"{stage}.cell": key for stage, key in self.cells.items()}


def read_axes(words: Sequence[str]) -> list[SweepAxis]:
    """Read the axes of a grid.

    Args:
        words: Each `section.key=value,value,...`, the values in YAML: `track.layers=[6],[6, 7]`.

    Raises:
        SweepError: a word is none, names a key twice or a value twice, or is of a section that no stage of a sweep
            reads.
    """
    axes: list[SweepAxis] = []
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or "." not in key or not all(key.split(".")):
            raise SweepError(
                f"{word!r} sweeps nothing; wanted: section.key=value,value, such as track.motion_cost=0,0.1"
            )
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError as error:
            raise SweepError(f"{word!r}: the values are not valid YAML: {' '.join(str(error).split())}") from error
        if not values:
            raise SweepError(f"{key} has no value; wanted: {key}=value,value")
        axis = SweepAxis(key, tuple(values))
        if axis.section not in _READ_BY:
            raise SweepError(
                f"{key} cannot be swept: a sweep reads what is stored and runs no video model; {', '.join(_READ_BY)} "
                f"can be. Change {axis.section} in params.yaml and run `difftrack repro`"
            )
        if key in [other.key for other in axes]:
            raise SweepError(f"{key} is named twice; give all its values in one word")
        if len({repr(value) for value in values}) < len(values):
            raise SweepError(f"{word!r} names a value twice")
        axes.append(axis)
    if not axes:
        raise SweepError("nothing to sweep; wanted: section.key=value,value, such as track.motion_cost=0,0.1,0.3")
    if (count := math.prod(len(axis.values) for axis in axes)) > MOST_POINTS:
        raise SweepError(f"the grid has {count} points; at most {MOST_POINTS} are swept")
    return axes


def stages_of(axes: Sequence[SweepAxis], on: str | None = None) -> tuple[SweptStage, ...]:
    """The stages whose results a sweep measures.

    Args:
        axes: Of the grid.
        on: Their names with commas between them; by default those that any axis changes.

    Raises:
        SweepError: there is no such stage.
    """
    if on is None:
        reached = {stage for axis in axes for stage in _READ_BY[axis.section]}
        return tuple(stage for stage in MEASURES if stage in reached)
    named = [name.strip() for name in on.split(",")]
    if unknown := [name for name in named if name not in MEASURES]:
        raise SweepError(f"--on names {unknown[0]!r}; wanted: {', '.join(MEASURES)}")
    return tuple(stage for stage in MEASURES if stage in named)


def grid(axes: Sequence[SweepAxis]) -> Iterator[dict[str, Any]]:
    """All points of a grid, key -> value; the last axis changes fastest."""
    for values in product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def laid_over(params: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Params in which each key of a point has the point's value, in place of whatever it had.

    Raises:
        SweepError: a key leads through something that is no section.
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
                raise SweepError(f"{key} leads through {section}, which is {inner!r} and no section")
        inner[last] = deepcopy(value)
    return changed


def show_value(value: Any) -> str:  # noqa: ANN401 - whatever params.yaml may hold
    """A value as params.yaml would have it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
