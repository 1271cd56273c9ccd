"""How tracks are evaluated: what the section `track` holds besides the tracker."""

from dataclasses import dataclass, field
from typing import Literal

from difftrack.annotation import LucasKanadeParams
from difftrack.datasets import QueryMode
from difftrack.tracking import TrackParams

__all__ = ["TrackSection"]


@dataclass(frozen=True, slots=True)
class TrackSection(TrackParams):
    """`track`: everything that only reads descriptors: the tracker, and how it is evaluated."""

    baselines: tuple[Literal["no_motion", "lucas_kanade"], ...] = ("no_motion", "lucas_kanade")
    """What stands beside the tracker in the tables; not scored on clips whose pseudo-truth it gave."""
    lucas_kanade: LucasKanadeParams = field(default_factory=LucasKanadeParams)
    query_mode: QueryMode = "first"
    """TAP-Vid's protocols: evaluate the frames after a point's query, or all others."""
