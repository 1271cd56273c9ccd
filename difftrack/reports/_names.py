"""What trackers and truths are called in tables, figures and videos."""

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
    """Give a tracker's name for people.

    Args:
        tracker: Its name in files.
        backbone: What the backbone's own tracks are called.
    """
    return backbone if tracker == OWN_METHOD and backbone else _NAMES.get(tracker, tracker)


def explore_command(clip: str) -> str:
    """Give the command that opens a clip in the explorer, in the folder of the pipeline."""
    return f"difftrack explore --clip {clip}"


def truth_name(truth: Truth) -> str:
    """Say what the tracks of a clip are, with the tracker that gave a pseudo-truth."""
    if truth.tracker is None:
        return f"{truth.kind} truth"
    return f"pseudo-truth by {tracker_name(truth.tracker)}"


def pseudo_truth_warning(tracker: str) -> str:
    """Say in a sentence what a comparison with a tracker's answer is worth."""
    name = tracker_name(tracker)
    return f"The positions to compare with are the pseudo-truth of {name}: the number says how far both agree."


def group_name(group: str) -> str:
    """Give the name of a group of clips for people.

    Args:
        group: Its name in files, such as `truth` or `pseudo_truth/lucas_kanade`.
    """
    kind, _, tracker = group.partition("/")
    if kind == "pseudo_truth":
        return truth_name(Truth("pseudo_truth", tracker))
    return {"all": "all clips", "truth": "exact or annotated truth"}.get(group, group)
