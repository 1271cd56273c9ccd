"""How tracks are evaluated: what the section `track` holds besides the tracker."""

from dataclasses import dataclass, field

from difftrack.annotation import LucasKanadeParams, TrackerSettings
from difftrack.datasets import QueryMode
from difftrack.tracking import TrackParams

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

    def __post_init__(self) -> None:
        TrackParams.__post_init__(self)
        if set(self.baselines) - {"no_motion", "lucas_kanade"} or self.trackers:
            from difftrack.annotation import check_trackers

            named = {f"baselines[{index}]": name for index, name in enumerate(self.baselines)}
            check_trackers(named, self.trackers, section="track", own=("lucas_kanade",))
