"""Reads the results of the score and track stages."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from difftrack.datasets import Tracks, Truth
from difftrack.metrics import THRESHOLDS_PX
from difftrack.reports._analysis import GroupAccuracy, ScoreMaps, best_cell
from difftrack.reports._names import OWN_METHOD, group_name, tracker_name
from difftrack.reports._tracking import Method, TapVidScores, TrackedClip, TrackingResults
from difftrack.tracking import read_points, read_predictions

__all__ = ["maps_from_scores", "read_tracked_clip", "results_from_metrics"]

_MAPS = ("matching_accuracy", "confidence", "attention_score", "harmonic_mean", "self_mass", "text_mass")


def maps_from_scores(scores: Mapping[str, Any], *, backbone: str) -> ScoreMaps:
    """Build the score maps from the score stage's scores.json.

    Args:
        scores: Tables by group of clips, the group of the headlines, and the truth of each clip; null if there was
            nothing to score.
        backbone: Backbone of the scores.

    Raises:
        ValueError: the scores lack something that the report shows, such as matches by query and key.
    """
    try:
        tables = {name: _arrays(group) for name, group in scores["groups"].items()}
        headline = scores["headline"]
        mean = tables[headline]
        truths = [Truth(**scores["truth"][clip]) for clip in scores["groups"][headline]["clips"]]
        return ScoreMaps(
            backbone=backbone,
            **{name: mean[name] for name in _MAPS},
            feature_accuracy=mean.get("feature_accuracy"),
            head_accuracy=mean.get("head_matching_accuracy"),
            head_attention_score=mean.get("head_attention_score"),
            threshold_px=float(scores["scoring"]["threshold_px"]),
            convention=scores["convention"],
            match_convention=scores["match_convention"][0],
            groups=[
                _group(group_name(name), len(scores["groups"][name]["clips"]), tables[name])
                for name in _shown_groups(scores["groups"], headline)
            ],
            pseudo_truth=truths[0].tracker if truths else None,
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"scores.json of {backbone} lacks {error}; the report needs matches by query_key and their scores"
        ) from error


def results_from_metrics(metrics: Mapping[str, Any], *, backbone: str) -> list[TrackingResults]:
    """Build the tables of results from the track stage's metrics.json.

    Args:
        metrics: Means and clips by tracker; null if there was nothing to score.
        backbone: Name of the tracker in the tables.

    Returns:
        First the results over clips with exact or annotated truth, then those for each tracker's pseudo-truth, without
        parts that lack the backbone.

    Raises:
        ValueError: the metrics are incomplete.
    """
    try:
        truths = {clip: Truth(**truth) for clip, truth in metrics["truth"].items()}
        clips: dict[str | None, dict[str, Any]] = {}
        for clip, scores in metrics["clips"].items():
            clips.setdefault(truths[clip].tracker, {})[clip] = scores
        means = {None: metrics["mean"]} | {by: own["mean"] for by, own in metrics["pseudo_truth"].items()}
        return [
            TrackingResults(
                pseudo_truth=by,
                methods=[
                    _method(tracker, mean, clips.get(by, {}), backbone)
                    for tracker, mean in own.items()
                    if mean is not None
                ],
            )
            for by, own in means.items()
            if own.get(OWN_METHOD) is not None
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"metrics.json of {backbone} cannot be used ({error!r}); run the track stage again") from error


def _method(
    tracker: str,
    mean: Mapping[str, float | None],
    clips: Mapping[str, Mapping[str, Mapping[str, float | None] | None]],
    backbone: str,
) -> Method:
    own = {name: scores for name, of_clip in clips.items() if (scores := of_clip.get(tracker)) is not None}
    return Method(
        name=tracker_name(tracker, backbone),
        mean=_scores(mean),
        clips={name: _scores(scores) for name, scores in own.items()},
    )


def read_tracked_clip(path: Path, truth: Tracks, *, backbone: str) -> TrackedClip:
    """Read one clip's tracks from the track stage, with the truth cut to the tracked frames and points.

    Args:
        path: `<clip>.npz`.
        truth: The clip's truth.
        backbone: Name of the tracker.

    Raises:
        ValueError: the file holds no predictions, or those of other points.
    """
    query_points, predictions = read_predictions(path)
    num_frames = min(len(tracks.visible) for tracks in predictions.values())
    points = read_points(path)
    chosen = np.arange(truth.num_points) if points is None else points
    kept = truth.select(np.isin(np.arange(truth.num_points), chosen))
    if kept.query_points.shape != query_points.shape:
        raise ValueError(
            f"{path} holds {len(query_points)} points, but the truth {kept.num_points}; run the track stage again"
        )
    cut = replace(kept, points_xy_px=kept.points_xy_px[:num_frames], visible=kept.visible[:num_frames])
    methods = {tracker_name(tracker, backbone): tracks for tracker, tracks in predictions.items()}
    return TrackedClip(name=path.stem, truth=cut, methods=methods)


def _arrays(group: Mapping[str, Any]) -> dict[str, xr.DataArray]:
    """Return the tables of one group as labelled arrays, null as NaN."""
    return {
        name: xr.DataArray(
            np.asarray(table["values"], dtype=np.float64),
            dims=table["axes"],
            coords={axis: group["labels"][axis] for axis in table["axes"]},
        )
        for name, table in group["scores"].items()
    }


def _shown_groups(groups: Mapping[str, Mapping[str, Any]], headline: str) -> list[str]:
    """List the group of the headlines first, and all clips together only if they differ from it."""
    of_all = groups[headline]["clips"]
    return [
        headline,
        *(name for name in groups if name != headline and (name, groups[name]["clips"]) != ("all", of_all)),
    ]


def _group(name: str, num_clips: int, table: Mapping[str, xr.DataArray]) -> GroupAccuracy:
    accuracy, feature = table["matching_accuracy"], table.get("feature_accuracy")
    layer, step = best_cell(accuracy)
    return GroupAccuracy(
        name=name,
        num_clips=num_clips,
        layer=layer,
        step=step,
        matching_accuracy=float(accuracy.max()),
        feature_accuracy=float("nan") if feature is None else float(feature.max()),
    )


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
