"""Params of the evaluation of tracks: the part of the section `track` besides the tracker."""

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
    """Section `track`: the tracker, which only reads descriptors, and its evaluation."""

    baselines: tuple[str, ...] = ("no_motion", "lucas_kanade")
    """Registered trackers (no_motion, lucas_kanade, cotracker3, raft, dino, or a tracker from another package) that are
    compared with the tracker; they are not scored on clips whose pseudo-truth they produced."""
    lucas_kanade: LucasKanadeParams = field(default_factory=LucasKanadeParams)
    trackers: TrackerSettings = field(default_factory=dict)
    """Settings of the other baselines, by name (docs/extending.md)."""
    query_mode: QueryMode = "first"
    """TAP-Vid's protocols: evaluate the frames after a point's query frame (`first`), or all other frames
    (`strided`)."""
    queries: Literal["all", "first_frame"] = by_convention("all", "first_frame")
    """Queries that are tracked and scored: all, or only those in frame 0, as in the released script (B11); a clip
    without such a query is then left out. Points that are never visible are never queried, as in TAP-Vid."""

    def __post_init__(self) -> None:
        TrackParams.__post_init__(self)
        if set(self.baselines) - {"no_motion", "lucas_kanade"} or self.trackers:
            from difftrack.annotation import check_trackers

            named = {f"baselines[{index}]": name for index, name in enumerate(self.baselines)}
            check_trackers(named, self.trackers, section="track", own=("lucas_kanade",))

    def evaluated(self, truth: "Tracks", *, num_frames: int) -> "np.ndarray":
        """Return True for the points of a clip that are tracked and scored, `[point]`.

        Args:
            truth: The clip's tracks.
            num_frames: Number of tracked frames; later queries are left out.
        """
        frames = truth.query_points[:, 0]
        last = 1 if self.queries == "first_frame" else num_frames
        kept: np.ndarray = (frames < last) & truth.visible.any(axis=0)
        return kept
