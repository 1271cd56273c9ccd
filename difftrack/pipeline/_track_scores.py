"""What tracking leaves beside the tracks, stored descriptors or not: which queries count, and the metrics."""

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
"""delta_avg, AJ and OA."""


def best_layers_of(deps: Paths, section: TrackSection) -> list[int] | None:
    """Read the ranking where `layers: best` wants it."""
    if section.layers != "best":
        return None
    if "best_layers" not in deps:
        raise ValueError(
            "track.layers is best, and this call names no best_layers=FILE; name the layers, or add the file of the "
            "score stage to the stage's command and deps (tracking then runs again when the ranking changes)"
        )
    layers: list[int] = read_json(deps["best_layers"])["layers"]
    return layers


@dataclass(frozen=True, slots=True)
class Queries:
    """How many of a clip's queries are scored."""

    scored: int
    others: int
    """That are left out by rule: after the last tracked frame, of points that are visible nowhere, or, where only
    those of frame 0 count, in later frames."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredQueries:
    """The queries of a clip that are tracked and scored."""

    counts: Queries
    truth: Tracks
    """Tracks of these points alone."""
    points: Int[np.ndarray, " point"]
    """Their places among all points of the clip."""

    @property
    def places(self) -> Int[np.ndarray, " point"] | None:
        """As predictions name them: None where all of the clip's points are there."""
        return self.points if self.counts.others else None


def scored_queries(truth: Tracks, section: TrackSection, *, num_frames: int) -> ScoredQueries:
    """Choose the queries that are tracked and scored.

    Args:
        truth: All tracks of the clip.
        section: `queries` and `query_mode` matter here.
        num_frames: Frames that are tracked.

    Raises:
        ValueError: the tracks are shorter than that, or hold queries of another protocol.
    """
    if num_frames > truth.num_frames:
        raise ValueError(f"{num_frames} frames were extracted and the tracks hold {truth.num_frames}; extract again")
    _check_protocol(truth, section.query_mode)
    kept = section.evaluated(truth, num_frames=num_frames)
    points = np.flatnonzero(kept)
    return ScoredQueries(Queries(len(points), truth.num_points - len(points)), truth.select(kept), points)


def _check_protocol(truth: Tracks, query_mode: str) -> None:
    """Only strided queries ask for a point more than once, and `first` would leave out the frames before them."""
    of_points = truth.points_xy_px.swapaxes(0, 1).reshape(truth.num_points, -1)
    of_queries = np.column_stack([truth.query_points[:, 0], of_points])
    if query_mode == "first" and len(np.unique(of_points, axis=0)) < len(np.unique(of_queries, axis=0)):
        raise ValueError(
            "the tracks hold points that are queried in several frames, as the strided protocol does, and "
            "track.query_mode is first; set it to strided"
        )


@dataclass(eq=False)
class TrackedScores:
    """Takes what came of one clip after another, says what was left out, and writes the metrics."""

    section: TrackSection
    scores: dict[str, ClipScores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    queries: dict[str, Queries] = field(default_factory=dict)

    def takes(self, name: str, chosen: ScoredQueries) -> bool:
        """Count a clip's queries; False where it has none that count, and is left out by rule."""
        self.queries[name] = chosen.counts
        if not len(chosen.points):
            self.left_out[name] = f"clip {name} has no query to score; {self._rule}"
        return name not in self.left_out

    def write(self, folder: Path) -> None:
        """Write metrics.json, summary.json and metrics.csv, and say which queries and clips were left out."""
        tell(f"left out: {reason}" for reason in self.left_out.values())
        if others := sum(own.others for own in self.queries.values()):
            scored = sum(own.scored for own in self.queries.values())
            print(f"{scored} queries are scored and {others} are not: {self._rule}")
        _write_scores(folder, self.scores, self.failures, self.section, queries=self.queries, left_out=self.left_out)

    @property
    def _rule(self) -> str:
        """What leaves queries out, for people."""
        wanted = "in frame 0" if self.section.queries == "first_frame" else "in a frame that is tracked"
        return f"wanted is a query {wanted}, of a point that is visible somewhere"


def _write_scores(
    folder: Path,
    scores: Mapping[str, ClipScores],
    failures: Mapping[str, str],
    section: TrackSection,
    *,
    queries: Mapping[str, Queries],
    left_out: Mapping[str, str],
) -> None:
    """Write metrics.json (means, clips, queries, failures, params; null is no number), summary.json and metrics.csv."""
    found = scores_by_truth(scores, params=ScoringParams.preset(section.convention))
    chosen = {key: value for key, value in asdict(section).items() if key != "trackers" or value}
    counts = {
        "scored": sum(own.scored for own in queries.values()),
        "others": sum(own.others for own in queries.values()),
        "clips": {name: asdict(own) for name, own in queries.items()},
    }
    report = {**found, "queries": counts, "left_out": left_out, "failed": failures, "params": chosen}
    (folder / "metrics.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    pseudo = {tracker: _summary(own["mean"]) for tracker, own in found["pseudo_truth"].items()}
    summary = {**_summary(found["mean"]), **({"pseudo_truth": pseudo} if pseudo else {})}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    rows = [(name, tracker, own or {}) for name, of_clip in found["clips"].items() for tracker, own in of_clip.items()]
    metrics = list(dict.fromkeys(metric for _, _, own in rows for metric in own))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "tracker", "truth", *metrics, "not_scored"])
        for name, tracker, own in rows:
            reason = scores[name].not_scored.get(tracker)
            writer.writerow([name, tracker, scores[name].truth, *(own.get(metric) for metric in metrics), reason])


def _summary(means: Mapping[str, Mapping[str, float | None] | None]) -> dict[str, dict[str, float | None]]:
    """Keep delta_avg, AJ and OA of the trackers that were scored."""
    return {tracker: {name: values[name] for name in SUMMARY} for tracker, values in means.items() if values}
