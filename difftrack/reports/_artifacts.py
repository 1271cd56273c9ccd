"""Reads what the score and track stages wrote."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from difftrack.datasets import Tracks
from difftrack.metrics import THRESHOLDS_PX
from difftrack.reports._tracking import Method, TapVidScores, TrackedClip
from difftrack.tracking import read_predictions

__all__ = ["methods_from_metrics", "read_tracked_clip"]

_TRACKER = "tracker"
_NAMES = {"no_motion": "no motion", "lucas_kanade": "Lucas-Kanade"}


def methods_from_metrics(metrics: Mapping[str, Any], *, backbone: str) -> list[Method]:
    """Build the rows of the results table from the track stage's metrics.json.

    Args:
        metrics: Means and clips by tracker; null where there was nothing to score.
        backbone: What the tracker is called here.

    Raises:
        ValueError: the metrics lack what the table needs.
    """
    try:
        return [
            Method(
                name=_name(tracker, backbone),
                mean=_scores(mean),
                clips={
                    clip: _scores(scores[tracker]) for clip, scores in metrics["clips"].items() if tracker in scores
                },
            )
            for tracker, mean in metrics["mean"].items()
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"metrics.json of {backbone} cannot be used ({error!r}); run the track stage again") from error


def read_tracked_clip(path: Path, truth: Tracks, *, backbone: str) -> TrackedClip:
    """Read one clip's tracks as the track stage wrote them, the truth cut to the frames and points that were tracked.

    Args:
        path: `<clip>.npz`.
        truth: The clip's truth.
        backbone: What the tracker is called here.

    Raises:
        ValueError: the file holds no predictions, or those of other points.
    """
    query_points, predictions = read_predictions(path)
    num_frames = min(len(tracks.visible) for tracks in predictions.values())
    kept = truth.select(truth.query_points[:, 0] < num_frames)
    if kept.query_points.shape != query_points.shape:
        raise ValueError(
            f"{path} holds {len(query_points)} points and the truth {kept.num_points}; run the track stage again"
        )
    cut = replace(kept, points_xy_px=kept.points_xy_px[:num_frames], visible=kept.visible[:num_frames])
    methods = {_name(tracker, backbone): tracks for tracker, tracks in predictions.items()}
    return TrackedClip(name=path.stem, truth=cut, methods=methods)


def _name(tracker: str, backbone: str) -> str:
    return backbone if tracker == _TRACKER else _NAMES.get(tracker, tracker)


def _scores(values: Mapping[str, float | None]) -> TapVidScores:
    within = [_number(values[f"pts_within_{threshold}"]) for threshold in THRESHOLDS_PX]
    return TapVidScores(
        delta_avg=_number(values["average_pts_within_thresh"]),
        average_jaccard=_number(values["average_jaccard"]),
        occlusion_accuracy=_number(values["occlusion_accuracy"]),
        deltas=tuple(within),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
