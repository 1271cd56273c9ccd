"""Types and shapes are checked in every call of the library that a test makes."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from type_checks import checked

from difftrack.geometry import TokenGrid, frames_of_latent_frame

if TYPE_CHECKING:
    from collections import OrderedDict


@checked
def joined(
    one: Float[np.ndarray, "row 3"], other: Float[np.ndarray, "row col"], wide: bool = True
) -> Float[np.ndarray, "row 3+col"]:
    both = np.concatenate([one, other], axis=1)
    return both if wide else both[:, :-1]


@checked
def doubled(number: int) -> int:
    return 2 * number if number < 7 else "many"  # type: ignore[return-value]


@checked
@dataclass
class Table:
    cells: Float[np.ndarray, "row col"]
    sums: Float[np.ndarray, " row"]

    @checked
    @classmethod
    def made(cls, num: int) -> "Table":
        return cls(np.zeros((num, 5)), np.zeros(num))

    @checked
    @property
    def total(self) -> float:
        return float(self.sums.sum())


def test_sizes_of_an_axis_agree_between_arguments_and_the_result() -> None:
    assert joined(np.zeros((2, 3)), np.zeros((2, 5))).shape == (2, 8)
    with pytest.raises(BeartypeCallHintViolation):
        joined(np.zeros((2, 3)), np.zeros((7, 5)))
    with pytest.raises(BeartypeCallHintViolation):
        joined(np.zeros((2, 3)), np.zeros((2, 5)), wide=False)
    assert joined(np.zeros((7, 3)), np.zeros((7, 5))).shape == (7, 8)  # a failure leaves no size behind


def test_types_without_shapes_are_checked_before_and_after() -> None:
    assert doubled(3) == 6
    with pytest.raises(BeartypeCallHintViolation):
        doubled("3")  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation):
        doubled(7)


def test_dataclasses_class_methods_and_properties_are_checked() -> None:
    table = Table.made(2)
    assert isinstance(table, Table)
    assert table.total == 0
    with pytest.raises(BeartypeCallHintViolation):
        Table(np.zeros((2, 5)), np.zeros(3))
    with pytest.raises(BeartypeCallHintViolation):
        Table.made("2")  # type: ignore[arg-type]


def test_what_only_type_checkers_import_is_let_through() -> None:
    @checked
    def named(mapping: "OrderedDict[str, int]", number: int) -> int:
        return number

    assert named(object(), 2) == 2  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation):
        named({}, "2")  # type: ignore[arg-type]


def test_a_generator_stays_one() -> None:
    @checked
    def halves(values: Float[np.ndarray, " value"]) -> Iterator[Float[np.ndarray, " half"]]:
        yield values[: len(values) // 2]
        yield values[len(values) // 2 :]

    assert inspect.isgenerator(halves(np.zeros(6)))
    assert [len(half) for half in halves(np.zeros(6))] == [3, 3]
    with pytest.raises(BeartypeCallHintViolation):
        list(halves(np.zeros((2, 3))))


def test_the_library_is_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        TokenGrid(num_latent_frames=2, rows="3", cols=5, stride_px=8, temporal_stride=4)  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation):
        frames_of_latent_frame(2.5, temporal_stride=4)  # type: ignore[arg-type]
    assert frames_of_latent_frame(2, temporal_stride=4) == range(5, 9)
