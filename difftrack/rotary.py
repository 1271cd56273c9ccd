"""Describes the channels that rotary positions turn along each axis, and selects bands of their frequencies."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["ALL_FREQUENCIES", "AXES", "Axis", "FrequencyBands", "RotaryLayout"]

Axis = Literal["temporal", "vertical", "horizontal"]
"""Axis of a rotary position: latent frames, rows or columns of tokens."""

AXES: tuple[Axis, ...] = get_args(Axis)

Pairs = tuple[tuple[int, int], ...]
"""Pairs of channels that turn together, like the real and imaginary parts of a number; fastest frequency first."""

Share = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrequencyBands:
    """Rotary frequencies of each axis that take part in a match, as shares: 0 is the fastest, 1 past the slowest.

    Of n frequencies, those numbered `int(n * from)` up to, not including, `int(n * to)` take part. Channels that do not
    turn always take part. The default keeps everything.

    Raises:
        ValueError: a band is not within 0 ... 1, or ends before it begins.

    Source:
        HeFT (Yuan et al. 2025, arXiv 2512.04619) matches with the slower frequencies, which depend less on the
        position: its `freq_range`, the same for all axes.
    """

    temporal: Share = (0.0, 1.0)
    """[from, to] of the frequencies that turn by latent frame."""
    vertical: Share = (0.0, 1.0)
    """[from, to] of the frequencies that turn by row."""
    horizontal: Share = (0.0, 1.0)
    """[from, to] of the frequencies that turn by column."""

    def __post_init__(self) -> None:
        for axis in AXES:
            first, last = getattr(self, axis)
            if not 0 <= first <= last <= 1:
                raise ValueError(f"{axis} is {[first, last]}; expected [from, to] with 0 <= from <= to <= 1")

    @property
    def keeps_all(self) -> bool:
        """Whether every frequency takes part."""
        return all(getattr(self, axis) == (0.0, 1.0) for axis in AXES)


ALL_FREQUENCIES = FrequencyBands()


@dataclass(frozen=True, slots=True)
class RotaryLayout:
    """The pairs of channels that each axis turns, fastest frequency first; equal in every head.

    A pair (a, b) of axis x and frequency w is turned by the angle w * position along x. Bands of frequencies are pairs
    of channels, before and after the turn, so they can be selected from stored descriptors.

    Raises:
        ValueError: a channel is negative, or in two pairs.
    """

    temporal: Pairs = ()
    vertical: Pairs = ()
    horizontal: Pairs = ()

    def __post_init__(self) -> None:
        channels = [channel for axis in AXES for pair in getattr(self, axis) for channel in pair]
        if len(set(channels)) < len(channels) or min(channels, default=0) < 0:
            raise ValueError(f"RotaryLayout names channels {sorted(channels)}; expected each at most once, from 0 on")

    @classmethod
    def interleaved(cls, temporal: int, vertical: int, horizontal: int) -> "RotaryLayout":
        """Make a layout with one axis after the other and adjacent pairs (CogVideoX, Wan, HunyuanVideo).

        Args:
            temporal: Number of channels that the axis turns, even.
            vertical: As `temporal`.
            horizontal: As `temporal`.
        """
        return cls(*(tuple((c, c + 1) for c in own[::2]) for own in _runs(temporal, vertical, horizontal)))

    @classmethod
    def halves(cls, temporal: int, vertical: int, horizontal: int) -> "RotaryLayout":
        """Make a layout with one axis after the other in each half of the channels, pairs across the halves (Cosmos).

        Args:
            temporal: Number of channels that the axis turns, in both halves together.
            vertical: As `temporal`.
            horizontal: As `temporal`.
        """
        half = (temporal + vertical + horizontal) // 2
        runs = _runs(temporal // 2, vertical // 2, horizontal // 2)
        return cls(*(tuple((c, c + half) for c in own) for own in runs))

    @classmethod
    def halves_of_axes(cls, temporal: int, vertical: int, horizontal: int) -> "RotaryLayout":
        """Make a layout with one axis after the other, each with first channels of pairs before second ones (Allegro).

        Args:
            temporal: Number of channels that the axis turns, even.
            vertical: As `temporal`.
            horizontal: As `temporal`.
        """
        runs = _runs(temporal, vertical, horizontal)
        return cls(*(tuple(zip(own[: len(own) // 2], own[len(own) // 2 :], strict=True)) for own in runs))

    def channels(self, bands: FrequencyBands, num_channels: int) -> tuple[int, ...]:
        """Return the channels of a head that take part, in ascending order.

        Args:
            bands: Frequencies that take part.
            num_channels: Number of channels of a head.

        Raises:
            ValueError: no channel takes part, or the layout names a channel that a head does not have.
        """
        dropped = set()
        for axis in AXES:
            pairs: Pairs = getattr(self, axis)
            first, last = (math.floor(len(pairs) * share + 1e-9) for share in getattr(bands, axis))
            dropped |= {channel for pair in (*pairs[:first], *pairs[last:]) for channel in pair}
        highest = max((channel for axis in AXES for pair in getattr(self, axis) for channel in pair), default=-1)
        if highest >= num_channels:
            raise ValueError(f"the rotary layout names channel {highest}; a head has {num_channels} channels")
        if not (kept := tuple(channel for channel in range(num_channels) if channel not in dropped)):
            raise ValueError(f"frequencies keep none of {num_channels} channels; widen the band of an axis")
        return kept


def _runs(*counts: int) -> Iterator[Sequence[int]]:
    """Return the channels of each axis, one axis after the other."""
    first = 0
    for count in counts:
        yield range(first, first + count)
        first += count
