"""The source of a clip's tracks: exact, annotated, or the pseudo-truth of a tracker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ANNOTATED", "EXACT", "OWN_TRACKER", "Truth", "TruthKind", "group_by_truth"]

TruthKind = Literal["exact", "annotated", "pseudo_truth"]
"""`exact`: computed by the renderer; `annotated`: marked by people; `pseudo_truth`: the output of a tracker."""

EXACT = "exact"
"""`Tracks.tracker` of exact tracks."""
ANNOTATED = "annotated"
"""`Tracks.tracker` of tracks that people marked."""
OWN_TRACKER = "difftrack"
"""`Tracks.tracker` of tracks from this project's tracker, with any backbone."""

_KNOWN_GROUP = "truth"
_PSEUDO_GROUP = "pseudo_truth"


@dataclass(frozen=True, slots=True)
class Truth:
    """The kind of truth of a clip's tracks.

    Raises:
        ValueError: a pseudo-truth has no tracker, or another kind has one.
    """

    kind: TruthKind
    tracker: str | None = None
    """The tracker that produced a pseudo-truth; None for exact or annotated tracks."""

    def __post_init__(self) -> None:
        if (self.kind == "pseudo_truth") != bool(self.tracker):
            raise ValueError(
                f"a truth of kind {self.kind!r} has the tracker {self.tracker!r}; pseudo_truth needs a tracker's name, "
                "and the other kinds need None"
            )

    @classmethod
    def of_tracker(cls, tracker: str) -> "Truth":
        """Classify tracks by their source: `exact`, `annotated`, or the name of a tracker."""
        if tracker == EXACT:
            return cls("exact")
        return cls("annotated") if tracker == ANNOTATED else cls("pseudo_truth", tracker)

    @property
    def known(self) -> bool:
        """Whether the tracks are exact or annotated, so that deviations from them are real errors."""
        return self.kind != "pseudo_truth"

    @property
    def group(self) -> str:
        """Name of the group of clips that may be averaged together: `truth`, or `pseudo_truth/<tracker>`."""
        return _KNOWN_GROUP if self.known else f"{_PSEUDO_GROUP}/{self.tracker}"

    def __str__(self) -> str:
        return self.kind if self.known else f"pseudo-truth by {self.tracker}"


def group_by_truth(truths: Mapping[str, Truth]) -> dict[str, list[str]]:
    """Group clips that may be averaged together.

    Args:
        truths: Clip name -> the kind of truth of its tracks.

    Returns:
        Group name (`Truth.group`) -> clip names, with exact or annotated truth first; empty groups are left out.
        Headline numbers refer to the first group.
    """
    groups: dict[str, list[str]] = {}
    for name, truth in sorted(truths.items(), key=lambda item: not item[1].known):
        groups.setdefault(truth.group, []).append(name)
    return groups
