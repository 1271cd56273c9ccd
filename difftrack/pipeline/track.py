"""Stage: descriptors of the tracking view -> tracks, and their TAP-Vid metrics beside those of baselines."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from difftrack.annotation import TrackerUnavailableError
from difftrack.datasets import Tracks, read_clip, read_tracks
from difftrack.documents import read_json
from difftrack.evaluation import TrackSection
from difftrack.metrics import ClipScores, ScoringParams, scores_by_truth
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, end, run, tell
from difftrack.scenes import Scenes
from difftrack.store import Store, open_store
from difftrack.tracking import (
    PredictedTracks,
    cuts_line,
    stored_clips,
    write_predictions,
)
from difftrack.workflows.track import num_stored_frames, track_by_baselines, track_stored_clip

SUMMARY = ("average_pts_within_thresh", "average_jaccard", "occlusion_accuracy")
"""delta_avg, AJ and OA."""


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `descriptors`, `tracks`, `clips` and, for `layers: best`, `best_layers`; write the folder `predictions`."""
    section = parse(TrackSection, params, "track")
    best_layers = _best_layers(deps) if section.layers == "best" else None
    store, folder = open_store(deps["descriptors"]), outs["predictions"]
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, ClipScores] = {}
    failures: dict[str, str] = {}
    tell(store.manifest().remarks(deps["descriptors"]))
    if not (names := stored_clips(store)):
        raise ValueError(f"{deps['descriptors']} holds no clip of a tracking view; run the extract stage first")
    for name in each(names, "track"):
        try:
            truth = read_tracks(deps["tracks"], name)
            queries, predictions, scenes = _track(store, name, truth, deps["clips"], section, best_layers)
            write_predictions(folder / f"{name}.npz", queries, predictions, cuts=scenes.cuts)
            if scenes.cuts:
                print(f"{name}: {cuts_line(scenes)}")
            scores[name] = ClipScores.compare(predictions, truth, query_mode=section.query_mode)
        except TrackerUnavailableError:
            raise
        except (ValueError, OSError) as error:
            failures[name] = str(error)
    _write_scores(folder, scores, failures, section)
    end("track", failures, total=len(names), of="extract")


def _best_layers(deps: Paths) -> list[int]:
    if "best_layers" not in deps:
        raise ValueError(
            "track.layers is best, and this call names no best_layers=FILE; name the layers, or add the file of the "
            "score stage to the stage's command and deps (tracking then runs again when the ranking changes)"
        )
    layers: list[int] = read_json(deps["best_layers"])["layers"]
    return layers


def _track(
    store: Store, name: str, truth: Tracks, clips: Path, section: TrackSection, best_layers: list[int] | None
) -> tuple[np.ndarray, dict[str, PredictedTracks], Scenes]:
    """Track the truth's queries with the tracker and the baselines, in pixels of the clip's own frames."""
    num_frames = num_stored_frames(store, name, kind=section.kind)
    if num_frames > truth.num_frames:
        raise ValueError(f"the store holds {num_frames} frames and the tracks {truth.num_frames}; extract again")
    _check_protocol(truth, section.query_mode)
    queries = truth.query_points[truth.query_points[:, 0] < num_frames]  # the rest start after the clip was cut
    frames = read_clip(clips, name).frames[:num_frames]
    tracks, scenes = track_stored_clip(store, name, queries, section, frames=frames, best_layers=best_layers)
    others = track_by_baselines(frames, queries, section, scenes=scenes)
    return queries, {"tracker": tracks, **others}, scenes


def _check_protocol(truth: Tracks, query_mode: str) -> None:
    """Only strided queries ask for a point more than once, and `first` would leave out the frames before them."""
    of_points = truth.points_xy_px.swapaxes(0, 1).reshape(truth.num_points, -1)
    of_queries = np.column_stack([truth.query_points[:, 0], of_points])
    if query_mode == "first" and len(np.unique(of_points, axis=0)) < len(np.unique(of_queries, axis=0)):
        raise ValueError(
            "the tracks hold points that are queried in several frames, as the strided protocol does, and "
            "track.query_mode is first; set it to strided"
        )


def _write_scores(
    folder: Path, scores: Mapping[str, ClipScores], failures: Mapping[str, str], section: TrackSection
) -> None:
    """Write metrics.json (means, clips, failures, params; null is no number), summary.json and metrics.csv."""
    found = scores_by_truth(scores, params=ScoringParams.preset(section.convention))
    chosen = {key: value for key, value in asdict(section).items() if key != "trackers" or value}
    report = {**found, "failed": failures, "params": chosen}
    (folder / "metrics.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    pseudo = {tracker: _summary(own["mean"]) for tracker, own in found["pseudo_truth"].items()}
    summary = {**_summary(found["mean"]), **({"pseudo_truth": pseudo} if pseudo else {})}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    rows = [(name, tracker, own or {}) for name, of_clip in found["clips"].items() for tracker, own in of_clip.items()]
    metrics = list(dict.fromkeys(metric for _, _, own in rows for metric in own))
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "tracker", "truth", *metrics, "not_scored"])
        for name, tracker, own in rows:
            reason = scores[name].not_scored.get(tracker)
            writer.writerow([name, tracker, scores[name].truth, *(own.get(metric) for metric in metrics), reason])


def _summary(means: Mapping[str, Mapping[str, float | None] | None]) -> dict[str, dict[str, float | None]]:
    """Keep delta_avg, AJ and OA of the trackers that were scored."""
    return {tracker: {name: values[name] for name in SUMMARY} for tracker, values in means.items() if values}


def run_stage() -> None:
    """Run this stage with what the command line names."""
    run("track", main)
