"""What gave the tracks of a clip, and how far they can be called the truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ANNOTATED", "EXACT", "OWN_TRACKER", "Truth", "TruthKind", "group_by_truth"]

TruthKind = Literal["exact", "annotated", "pseudo_truth"]
"""`exact`: computed by the renderer; `annotated`: marked by people; `pseudo_truth`: the answer of a tracker."""

EXACT = "exact"
"""`Tracks.tracker` of exact tracks."""
ANNOTATED = "annotated"
"""`Tracks.tracker` of tracks that people marked."""
OWN_TRACKER = "difftrack"
"""`Tracks.tracker` of tracks that this project found, whichever the backbone."""

_KNOWN_GROUP = "truth"
_PSEUDO_GROUP = "pseudo_truth"


@dataclass(frozen=True, slots=True)
class Truth:
    """The standing of a clip's tracks.

    Raises:
        ValueError: a pseudo-truth names no tracker, or another kind names one.
    """

    kind: TruthKind
    tracker: str | None = None
    """The tracker that gave a pseudo-truth; None where the tracks are exact or annotated."""

    def __post_init__(self) -> None:
        if (self.kind == "pseudo_truth") != bool(self.tracker):
            raise ValueError(
                f"a truth of kind {self.kind!r} names the tracker {self.tracker!r}; wanted: a tracker's name for "
                "pseudo_truth, and None for the other kinds"
            )

    @classmethod
    def of_tracker(cls, tracker: str) -> "Truth":
        """Classify tracks by what gave them: `exact`, `annotated`, or the name of a tracker."""
        if tracker == EXACT:
            return cls("exact")
        return cls("annotated") if tracker == ANNOTATED else cls("pseudo_truth", tracker)

    @property
    def known(self) -> bool:
        """Whether the tracks are exact or annotated, so that an error against them is an error."""
        return self.kind != "pseudo_truth"

    @property
    def group(self) -> str:
        """The name of the clips that may be averaged together: `truth`, or `pseudo_truth/<tracker>`."""
        return _KNOWN_GROUP if self.known else f"{_PSEUDO_GROUP}/{self.tracker}"

    def __str__(self) -> str:
        return self.kind if self.known else f"pseudo-truth by {self.tracker}"


def group_by_truth(truths: Mapping[str, Truth]) -> dict[str, list[str]]:
    """Split clips into those that may be averaged together.

    Args:
        truths: Clip name -> the standing of its tracks.

    Returns:
        Group name (`Truth.group`) -> clip names, clips of exact or annotated truth first; an empty group is left out.
        The first group is the one that headlines are about.
    """
    groups: dict[str, list[str]] = {}
    for name, truth in sorted(truths.items(), key=lambda item: not item[1].known):
        groups.setdefault(truth.group, []).append(name)
    return groups
