"""Names of trackers and truths in tables, figures and videos."""

from difftrack.datasets import OWN_TRACKER, Truth

__all__ = ["OWN_METHOD", "explore_command", "group_name", "pseudo_truth_warning", "tracker_name", "truth_name"]

OWN_METHOD = "tracker"
"""The name of the backbone's own tracks in files."""
_NAMES = {
    "no_motion": "no motion",
    "lucas_kanade": "Lucas-Kanade",
    "cotracker3": "CoTracker3",
    "raft": "RAFT",
    "dino": "DINO",
    OWN_TRACKER: "DiffTrack",
}


def tracker_name(tracker: str, backbone: str = "") -> str:
    """Return a tracker's display name.

    Args:
        tracker: Its name in files.
        backbone: Name of the backbone's own tracks.
    """
    return backbone if tracker == OWN_METHOD and backbone else _NAMES.get(tracker, tracker)


def explore_command(clip: str) -> str:
    """Return the command that opens a clip in the explorer, to run in the pipeline's folder."""
    return f"difftrack explore --clip {clip}"


def truth_name(truth: Truth) -> str:
    """Describe the kind of a clip's tracks, with the tracker of a pseudo-truth."""
    if truth.tracker is None:
        return f"{truth.kind} truth"
    return f"pseudo-truth by {tracker_name(truth.tracker)}"


def pseudo_truth_warning(tracker: str) -> str:
    """Explain in a sentence what a comparison with a tracker means."""
    name = tracker_name(tracker)
    return f"The reference is the pseudo-truth of {name}: the number is the agreement of both."


def group_name(group: str) -> str:
    """Return the display name of a group of clips.

    Args:
        group: Its name in files, such as `truth` or `pseudo_truth/lucas_kanade`.
    """
    kind, _, tracker = group.partition("/")
    if kind == "pseudo_truth":
        return truth_name(Truth("pseudo_truth", tracker))
    return {"all": "all clips", "truth": "exact or annotated truth"}.get(group, group)
