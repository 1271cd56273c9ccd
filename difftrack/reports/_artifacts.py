"""Reads what the score and track stages wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from difftrack.datasets import Tracks
from difftrack.metrics import THRESHOLDS_PX
from difftrack.reports._tracking import Method, TapVidScores, TrackedClip

__all__ = ["methods_from_metrics", "read_predictions"]

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


def read_predictions(path: Path, truth: Tracks, *, backbone: str) -> TrackedClip:
    """Read one clip's tracks as the track stage wrote them, the truth cut to the frames and points that were tracked.

    Args:
        path: `<clip>.npz`.
        truth: The clip's truth.
        backbone: What the tracker is called here.

    Raises:
        ValueError: the file is missing or does not hold tracks of this clip.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = dict(arrays)
        num_frames = len(stored["visible"])
        trackers = [name.removesuffix("visible").rstrip("_") for name in stored if name.endswith("visible")]
        methods = {_name(tracker or _TRACKER, backbone): _tracks(stored, tracker, truth) for tracker in trackers}
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: holds no usable tracks ({error}); run the track stage again") from error
    kept = truth.select(truth.query_points[:, 0] < num_frames)
    cut = {"points_xy_px": kept.points_xy_px[:num_frames], "visible": kept.visible[:num_frames]}
    return TrackedClip(name=path.stem, truth=_like(truth, kept.query_points, truth.tracker, **cut), methods=methods)


def _tracks(stored: Mapping[str, np.ndarray], tracker: str, truth: Tracks) -> Tracks:
    prefix = f"{tracker}_" if tracker else ""
    arrays = {name: stored[f"{prefix}{name}"] for name in ("points_xy_px", "visible")}
    return _like(truth, stored["query_points"], tracker or _TRACKER, **arrays)


def _like(truth: Tracks, query_points: np.ndarray, tracker: str, **arrays: np.ndarray) -> Tracks:
    return Tracks(query_points=query_points, height=truth.height, width=truth.width, tracker=tracker, **arrays)


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
