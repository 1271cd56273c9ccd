"""Parsing of params.yaml sections."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from difftrack.params import ParamsError, parse


@dataclass(frozen=True)
class Inner:
    radius: int = 1


@dataclass(frozen=True)
class Section:
    threshold_px: float
    mode: Literal["clean", "noisy"] = "clean"
    layers: Literal["all"] | tuple[int, ...] = "all"
    size: tuple[int, int] = (3, 5)
    path: Path | None = None
    weights: dict[str, float] | None = None
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.threshold_px <= 0:
            raise ValueError(f"threshold_px is {self.threshold_px}; it must be positive")


def test_values_arrive_with_their_types() -> None:
    given = {"threshold_px": 8, "layers": [2, 3], "path": "a/b", "weights": {"x": 1}, "inner": {"radius": 7}}
    parsed = parse(Section, given, "score")
    assert parsed == Section(8.0, layers=(2, 3), path=Path("a/b"), weights={"x": 1.0}, inner=Inner(7))
    assert isinstance(parsed.threshold_px, float)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["score.threshold_px", "missing", "a number"]),
        ({"threshold_px": 8, "treshold": 1}, ["unknown key score.treshold", "threshold_px"]),
        ({"threshold_px": "8"}, ["score.threshold_px is '8'", "a number"]),
        ({"threshold_px": True}, ["score.threshold_px is True", "a number"]),
        ({"threshold_px": 8, "mode": "dirty"}, ["score.mode is 'dirty'", "clean | noisy"]),
        ({"threshold_px": 8, "layers": "some"}, ["score.layers is 'some'", "all", "a list of an integer"]),
        ({"threshold_px": 8, "layers": [1, 2.5]}, ["score.layers[1] is 2.5", "an integer"]),
        ({"threshold_px": 8, "layers": {1: 2}}, ["score.layers is {1: 2}", "all or a list of an integer"]),
        ({"threshold_px": 8, "layers": b"12"}, ["score.layers is b'12'"]),
        ({"threshold_px": 8, "path": 3}, ["score.path is 3", "a path or null"]),
        ({"threshold_px": 8, "weights": {"x": "1"}}, ["score.weights.x is '1'", "a number"]),
        ({"threshold_px": 8, "weights": {3: 1}}, ["a key of score.weights is 3", "a string"]),
        ({"threshold_px": 8, 3: 5}, ["unknown key score.3", "known: inner, layers"]),
        ({"threshold_px": 8, "inner": {"radius": 3.0}}, ["score.inner.radius is 3.0", "an integer"]),
        ({"treshold_px": 8}, ["unknown key score.treshold_px", "did you mean threshold_px?"]),
        ({"threshold_px": 8, "mode": "x" * 5000}, ["score.mode is 'xxx", "x ...; expected clean | noisy"]),
        ({"threshold_px": 8, "size": [3, 5, 7]}, ["score.size is [3, 5, 7]", "a list of an integer, an integer"]),
        ({"threshold_px": 8, "size": [3]}, ["score.size is [3]"]),
        ({"threshold_px": 8, "inner": {"radios": 2}}, ["unknown key score.inner.radios", "radius"]),
        ({"threshold_px": float("nan")}, ["score.threshold_px is nan; expected a finite number"]),
        ({"threshold_px": 8, "weights": {"x": float("-inf")}}, ["score.weights.x is -inf; expected a finite number"]),
        ({"threshold_px": -1}, ["score", "threshold_px is -1.0", "positive"]),
    ],
)
def test_a_bad_value_is_named_in_one_line_with_what_is_allowed(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ParamsError) as raised:
        parse(Section, values, "score")
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_section_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"score\.inner is \[1\]; expected a mapping"):
        parse(Section, {"threshold_px": 8, "inner": [1]}, "score")
