"""How tracks are evaluated: what the section `track` holds besides the tracker."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from difftrack.annotation import LucasKanadeParams, TrackerSettings
from difftrack.datasets import QueryMode
from difftrack.params import by_convention
from difftrack.tracking import TrackParams

if TYPE_CHECKING:
    import numpy as np

    from difftrack.datasets import Tracks

__all__ = ["TrackSection"]


@dataclass(frozen=True, slots=True)
class TrackSection(TrackParams):
    """`track`: everything that only reads descriptors: the tracker, and how it is evaluated."""

    baselines: tuple[str, ...] = ("no_motion", "lucas_kanade")
    """Registered trackers (no_motion, lucas_kanade, cotracker3, raft, dino, or a package's own) that stand beside the
    tracker in the tables; not scored on clips whose pseudo-truth they gave."""
    lucas_kanade: LucasKanadeParams = field(default_factory=LucasKanadeParams)
    trackers: TrackerSettings = field(default_factory=dict)
    """Settings of the other baselines by name (docs/extending.md)."""
    query_mode: QueryMode = "first"
    """TAP-Vid's protocols: evaluate the frames after a point's query, or all others."""
    queries: Literal["all", "first_frame"] = by_convention("all", "first_frame")
    """Queries that are tracked and scored: all, or those of frame 0, as the released script keeps them; a clip without
    any is then left out (B11). Points that are visible nowhere are never queried, as TAP-Vid has it."""

    def __post_init__(self) -> None:
        TrackParams.__post_init__(self)
        if set(self.baselines) - {"no_motion", "lucas_kanade"} or self.trackers:
            from difftrack.annotation import check_trackers

            named = {f"baselines[{index}]": name for index, name in enumerate(self.baselines)}
            check_trackers(named, self.trackers, section="track", own=("lucas_kanade",))

    def evaluated(self, truth: "Tracks", *, num_frames: int) -> "np.ndarray":
        """True for the points of a clip that are tracked and scored, `[point]`.

        Args:
            truth: The clip's tracks.
            num_frames: Frames that are tracked; later queries are left out.
        """
        frames = truth.query_points[:, 0]
        last = 1 if self.queries == "first_frame" else num_frames
        kept: np.ndarray = (frames < last) & truth.visible.any(axis=0)
        return kept
