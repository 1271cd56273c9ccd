"""Select the queries to score, and write the metrics, for tracking with or without stored descriptors."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from difftrack.datasets import Tracks
from difftrack.documents import read_json
from difftrack.evaluation import TrackSection
from difftrack.metrics import ClipScores, ScoringParams, scores_by_truth
from difftrack.pipeline._stage import Paths, tell

__all__ = ["Queries", "ScoredQueries", "TrackedScores", "best_layers_of", "scored_queries"]

SUMMARY = ("average_pts_within_thresh", "average_jaccard", "occlusion_accuracy")
"""Metrics in the summary: delta_avg, AJ and OA."""


def best_layers_of(deps: Paths, section: TrackSection) -> list[int] | None:
    """Read the ranking of layers if `layers` is `best`; None otherwise."""
    if section.layers != "best":
        return None
    if "best_layers" not in deps:
        raise ValueError(
            "track.layers is best, but the command has no best_layers=FILE; set the layers, or add the score stage's "
            "file to the stage's command and deps (tracking then runs again when the ranking changes)"
        )
    layers: list[int] = read_json(deps["best_layers"])["layers"]
    return layers


@dataclass(frozen=True, slots=True)
class Queries:
    """Numbers of a clip's queries that are scored and left out."""

    scored: int
    others: int
    """Queries left out by a rule: after the last tracked frame, of points that are never visible, or in later frames if
    only queries in frame 0 count."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredQueries:
    """The queries of a clip that are tracked and scored."""

    counts: Queries
    truth: Tracks
    """Tracks of these points."""
    points: Int[np.ndarray, " point"]
    """Indices of these points among all points of the clip."""

    @property
    def places(self) -> Int[np.ndarray, " point"] | None:
        """Indices for the predictions file: None if all of the clip's points are scored."""
        return self.points if self.counts.others else None


def scored_queries(truth: Tracks, section: TrackSection, *, num_frames: int) -> ScoredQueries:
    """Select the queries that are tracked and scored.

    Args:
        truth: All tracks of the clip.
        section: Only `queries` and `query_mode` are used.
        num_frames: Number of tracked frames.

    Raises:
        ValueError: the tracks have fewer frames, or contain queries of another protocol.
    """
    if num_frames > truth.num_frames:
        raise ValueError(f"{num_frames} frames were extracted, but the tracks have {truth.num_frames}; extract again")
    _check_protocol(truth, section.query_mode)
    kept = section.evaluated(truth, num_frames=num_frames)
    points = np.flatnonzero(kept)
    return ScoredQueries(Queries(len(points), truth.num_points - len(points)), truth.select(kept), points)


def _check_protocol(truth: Tracks, query_mode: str) -> None:
    """Check the protocol: only strided queries repeat a point, and `first` would ignore the frames before them."""
    point_tracks = truth.points_xy_px.swapaxes(0, 1).reshape(truth.num_points, -1)
    query_tracks = np.column_stack([truth.query_points[:, 0], point_tracks])
    if query_mode == "first" and len(np.unique(point_tracks, axis=0)) < len(np.unique(query_tracks, axis=0)):
        raise ValueError(
            "the tracks contain points that are queried in several frames, as in the strided protocol, but "
            "track.query_mode is first; set it to strided"
        )


@dataclass(eq=False)
class TrackedScores:
    """Collects the results of all clips, reports what was left out, and writes the metrics."""

    section: TrackSection
    scores: dict[str, ClipScores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    queries: dict[str, Queries] = field(default_factory=dict)

    def takes(self, name: str, chosen: ScoredQueries) -> bool:
        """Count a clip's queries; return False if none is scored, so that the clip is left out."""
        self.queries[name] = chosen.counts
        if not len(chosen.points):
            self.left_out[name] = f"clip {name} has no query to score; {self._rule}"
        return name not in self.left_out

    def write(self, folder: Path) -> None:
        """Write metrics.json, summary.json and metrics.csv, and report which queries and clips were left out."""
        tell(f"left out: {reason}" for reason in self.left_out.values())
        if others := sum(own.others for own in self.queries.values()):
            scored = sum(own.scored for own in self.queries.values())
            print(f"{scored} queries are scored and {others} are left out: {self._rule}")
        _write_scores(folder, self.scores, self.failures, self.section, queries=self.queries, left_out=self.left_out)

    @property
    def _rule(self) -> str:
        """Description of the rule that leaves queries out."""
        place = "in frame 0" if self.section.queries == "first_frame" else "in a tracked frame"
        return f"a query must be {place} and its point must be visible in some frame"


def _write_scores(
    folder: Path,
    scores: Mapping[str, ClipScores],
    failures: Mapping[str, str],
    section: TrackSection,
    *,
    queries: Mapping[str, Queries],
    left_out: Mapping[str, str],
) -> None:
    """Write metrics.json (means, clips, queries, failures, params; null for NaN), summary.json and metrics.csv."""
    found = scores_by_truth(scores, params=ScoringParams.preset(section.convention))
    chosen = {key: value for key, value in asdict(section).items() if key != "trackers" or value}
    counts = {
        "scored": sum(own.scored for own in queries.values()),
        "others": sum(own.others for own in queries.values()),
        "clips": {name: asdict(own) for name, own in queries.items()},
    }
    report = {**found, "queries": counts, "left_out": left_out, "failed": failures, "params": chosen}
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
    """Select delta_avg, AJ and OA of the scored trackers."""
    return {tracker: {name: values[name] for name in SUMMARY} for tracker, values in means.items() if values}
