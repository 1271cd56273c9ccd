"""Score trackers on clips and average the scores; a tracker is never compared with its own pseudo-truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from difftrack.datasets import OWN_TRACKER, Tracks, Truth, group_by_truth
from difftrack.geometry import rescale_points
from difftrack.metrics._grid import mean_over_clips
from difftrack.metrics._params import CORRECTED, ScoringParams
from difftrack.metrics._tapvid import survival_rate, tapvid_metrics

__all__ = ["EVALUATED_SIZE", "ClipScores", "FoundTracks", "scores_by_truth", "track_scores", "why_not_scored"]

EVALUATED_SIZE = (256, 256)
"""(height, width) at which TAP-Vid's metrics are computed."""

_OWN_METHOD = "tracker"
"""Name under which the backbone's tracks are evaluated."""


@runtime_checkable
class FoundTracks(Protocol):
    """Tracks of the truth's query points, in pixels of the same image."""

    @property
    def points_xy_px(self) -> Float[np.ndarray, "frame point xy"]:
        """(x, y) per frame and point."""

    @property
    def visible(self) -> Bool[np.ndarray, "frame point"]:
        """True where the tracker reports the point as visible."""


@dataclass(frozen=True, slots=True)
class ClipScores:
    """The metrics of every tracker on one clip."""

    truth: Truth
    """Kind and source of the tracks that the trackers were compared with."""
    scores: Mapping[str, Mapping[str, float]]
    """Tracker -> metric -> value; NaN if there is nothing to measure."""
    not_scored: Mapping[str, str]
    """Tracker that is not scored on this clip -> the reason."""

    @classmethod
    def compare(
        cls, found: Mapping[str, FoundTracks], truth: Tracks, *, query_mode: Literal["first", "strided"] = "first"
    ) -> "ClipScores":
        """Compare the tracks of several trackers with the truth; the tracker that produced the truth is not scored.

        Args:
            found: Tracker -> its tracks; the backbone's tracks are named `tracker`.
            truth: The clip's tracks; points queried after the last tracked frame are left out.
            query_mode: Evaluate the frames after a point's query frame (`first`), or all other frames (`strided`).
        """
        reasons = {name: why_not_scored(name, truth.truth) for name in found}
        scores = {
            name: track_scores(tracks, truth, query_mode=query_mode)
            for name, tracks in found.items()
            if reasons[name] is None
        }
        return cls(truth.truth, scores, {name: reason for name, reason in reasons.items() if reason is not None})


def why_not_scored(tracker: str, truth: Truth) -> str | None:
    """Return the reason why a tracker is not scored against a truth; None if it is scored.

    Args:
        tracker: The tracker's name; `tracker` for this project's tracker with any backbone.
        truth: Kind and source of the tracks to compare with.
    """
    name = OWN_TRACKER if tracker == _OWN_METHOD else tracker
    if truth.tracker != name:
        return None
    return f"the pseudo-truth of this clip comes from {name}; a tracker is not compared with itself"


def track_scores(
    found: FoundTracks, truth: Tracks, *, query_mode: Literal["first", "strided"] = "first"
) -> dict[str, float]:
    """Compute TAP-Vid's metrics and survival for one clip at 256x256, over the tracked frames.

    Args:
        found: Tracks of the points that `truth` queries in those frames, in pixels of the truth.
        truth: The clip's tracks.
        query_mode: Evaluate the frames after a point's query frame (`first`), or all other frames (`strided`).
    """
    num_frames, size = len(found.visible), (truth.height, truth.width)
    kept = truth.select(np.asarray(truth.query_points[:, 0] < num_frames))
    predicted = rescale_points(found.points_xy_px, from_size=size, to_size=EVALUATED_SIZE)
    true = rescale_points(kept.points_xy_px[:num_frames], from_size=size, to_size=EVALUATED_SIZE)
    visible, query_frames = kept.visible[:num_frames], kept.query_points[:, 0].astype(np.int64)
    batch = tapvid_metrics(
        predicted[None], found.visible[None], true[None], visible[None], query_frames[None], query_mode=query_mode
    ).as_dict()
    survival = survival_rate(predicted, true, visible, query_frames)
    return {name: float(videos[0]) for name, videos in batch.items()} | {"survival": survival}


def scores_by_truth(clips: Mapping[str, ClipScores], *, params: ScoringParams = CORRECTED) -> dict[str, Any]:
    """Average the scores of clips with exact or annotated truth; clips with pseudo-truth are averaged separately.

    Args:
        clips: Clip name -> its scores.
        params: Only `nan_cells` is used.

    Returns:
        `mean`: tracker -> its means over the clips with exact or annotated truth; empty if there are none.
        `pseudo_truth`: tracker that produced the pseudo-truth -> its `clips`, and their `mean` by tracker, null for
        that tracker itself. `truth`: clip -> `kind` and `tracker`. `clips`: clip -> tracker -> scores, null where the
        tracker is not scored. `not_scored`: clip -> tracker -> the reason. A null in place of a number means NaN.
    """
    means: dict[str, Any] = {"mean": {}, "pseudo_truth": {}}
    for names in group_by_truth({name: own.truth for name, own in clips.items()}).values():
        members = [clips[name] for name in names]
        mean = {tracker: _mean(members, tracker, params) for tracker in _trackers(members)}
        if members[0].truth.known:
            means["mean"] = mean
        else:
            means["pseudo_truth"][members[0].truth.tracker] = {"clips": names, "mean": mean}
    return {
        **means,
        "truth": {name: {"kind": own.truth.kind, "tracker": own.truth.tracker} for name, own in clips.items()},
        "clips": {
            name: {tracker: _finite(own.scores.get(tracker)) for tracker in _trackers([own])}
            for name, own in clips.items()
        },
        "not_scored": {name: dict(own.not_scored) for name, own in clips.items() if own.not_scored},
    }


def _trackers(clips: Sequence[ClipScores]) -> list[str]:
    """List all trackers, the scored ones first."""
    scored = [tracker for own in clips for tracker in own.scores]
    return list(dict.fromkeys([*scored, *(tracker for own in clips for tracker in own.not_scored)]))


def _mean(clips: Sequence[ClipScores], tracker: str, params: ScoringParams) -> dict[str, float | int | None] | None:
    table = [own.scores[tracker] for own in clips if tracker in own.scores]
    if not table:
        return None
    over_clips = mean_over_clips(np.array([list(own.values()) for own in table]), params=params)
    named = _finite(dict(zip(table[0], over_clips.mean.tolist(), strict=True))) or {}
    num_empty = sum(bool(np.isnan(own["average_pts_within_thresh"])) for own in table)
    return {**named, "num_clips": len(table), "num_empty": num_empty}


def _finite(scores: Mapping[str, float] | None) -> dict[str, float | None] | None:
    """Replace NaN by None, which JSON writes as null."""
    return None if scores is None else {key: None if np.isnan(value) else value for key, value in scores.items()}
