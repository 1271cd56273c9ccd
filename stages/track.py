"""Stage: descriptors of the tracking view -> tracks, and their TAP-Vid metrics beside those of baselines."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from difftrack.annotation import LucasKanadeParams, lucas_kanade
from difftrack.correspondence import matching_device
from difftrack.datasets import Tracks, read_clip, read_tracks
from difftrack.geometry import rescale_points
from difftrack.metrics import ScoringParams, mean_over_clips, survival_rate, tapvid_metrics
from difftrack.params import parse
from difftrack.scenes import Scenes, find_scenes
from difftrack.store import Store, open_store
from difftrack.tracking import (
    PredictedTracks,
    TrackParams,
    cuts_line,
    no_motion,
    select_sources,
    stored_chunks,
    stored_clips,
    track_clip,
    write_predictions,
)
from stages._run import Paths, each, end, run, tell

EVALUATED_SIZE = (256, 256)
"""TAP-Vid measures at this (height, width)."""

SUMMARY = ("average_pts_within_thresh", "average_jaccard", "occlusion_accuracy")
"""delta_avg, AJ and OA."""

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class TrackSection(TrackParams):
    """`track`: everything that only reads descriptors: the tracker, and how it is evaluated."""

    baselines: tuple[Literal["no_motion", "lucas_kanade"], ...] = ("no_motion", "lucas_kanade")
    """What stands beside the tracker in the tables."""
    lucas_kanade: LucasKanadeParams = field(default_factory=LucasKanadeParams)
    query_mode: Literal["first", "strided"] = "first"
    """TAP-Vid's protocols: evaluate the frames after a point's query, or all others."""


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `descriptors`, `tracks`, `clips` and, for `layers: best`, `best_layers`; write the folder `predictions`."""
    section = parse(TrackSection, params, "track")
    best_layers = _best_layers(deps) if section.layers == "best" else None
    store, folder = open_store(deps["descriptors"]), outs["predictions"]
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, Scores]] = {}
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
            scores[name] = {who: _score(tracks, truth, section) for who, tracks in predictions.items()}
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
    layers: list[int] = json.loads(deps["best_layers"].read_text())["layers"]
    return layers


def _track(
    store: Store, name: str, truth: Tracks, clips: Path, section: TrackSection, best_layers: list[int] | None
) -> tuple[np.ndarray, dict[str, PredictedTracks], Scenes]:
    """Track the truth's queries with the tracker and the baselines, in pixels of the clip's own frames."""
    chunks, spec = stored_chunks(store, name, kind=section.kind, device=matching_device(section.device))
    num_frames, size = 1 + max(max(chunk.frames) for chunk in chunks), (truth.height, truth.width)
    if num_frames > truth.num_frames:
        raise ValueError(f"the store holds {num_frames} frames and the tracks {truth.num_frames}; extract again")
    _check_protocol(truth, section.query_mode)
    queries = truth.query_points[_tracked(truth, num_frames)]
    at_backbone = np.column_stack([queries[:, 0], rescale_points(queries[:, 1:], from_size=size, to_size=spec.size)])
    sources = select_sources(spec, section, best_layers=best_layers)
    frames = read_clip(clips, name).frames[:num_frames]
    scenes = find_scenes(frames, cuts=section.ends_at_cuts)
    tracks = track_clip(chunks, at_backbone, sources=sources, grid=spec.grid, params=section, scenes=scenes)
    predictions = {"tracker": tracks.rescaled(from_size=spec.size, to_size=size)}
    if "no_motion" in section.baselines:
        predictions["no_motion"] = no_motion(queries, num_frames=num_frames)
    if "lucas_kanade" in section.baselines:
        flow = lucas_kanade(frames, queries, section.lucas_kanade)
        followed = PredictedTracks(flow.points_xy_px, flow.visible, flow.visible.astype(np.float32))
        starts = queries[:, 0].astype(np.int64)
        height, width = size
        predictions["lucas_kanade"] = followed.seen_in(height=height, width=width, query_frames=starts, scenes=scenes)
    return queries, predictions, scenes


def _check_protocol(truth: Tracks, query_mode: str) -> None:
    """Only strided queries ask for a point more than once, and `first` would leave out the frames before them."""
    of_points = truth.points_xy_px.swapaxes(0, 1).reshape(truth.num_points, -1)
    of_queries = np.column_stack([truth.query_points[:, 0], of_points])
    if query_mode == "first" and len(np.unique(of_points, axis=0)) < len(np.unique(of_queries, axis=0)):
        raise ValueError(
            "the tracks hold points that are queried in several frames, as the strided protocol does, and "
            "track.query_mode is first; set it to strided"
        )


def _tracked(truth: Tracks, num_frames: int) -> np.ndarray:
    """Which points are queried in the first `num_frames`; the rest start after the clip was cut."""
    return np.asarray(truth.query_points[:, 0] < num_frames)


def _score(tracks: PredictedTracks, truth: Tracks, section: TrackSection) -> Scores:
    """Compare one clip's tracks with the truth at 256x256, over the frames that were tracked."""
    num_frames, size = len(tracks.visible), (truth.height, truth.width)
    kept = truth.select(_tracked(truth, num_frames))
    predicted = rescale_points(tracks.points_xy_px, from_size=size, to_size=EVALUATED_SIZE)
    true = rescale_points(kept.points_xy_px[:num_frames], from_size=size, to_size=EVALUATED_SIZE)
    visible, query_frames = kept.visible[:num_frames], kept.query_points[:, 0].astype(np.int64)
    of_batch = tapvid_metrics(
        predicted[None],
        tracks.visible[None],
        true[None],
        visible[None],
        query_frames[None],
        query_mode=section.query_mode,
    ).as_dict()
    survival = survival_rate(predicted, true, visible, query_frames)
    return {key: float(of_video[0]) for key, of_video in of_batch.items()} | {"survival": survival}


def _write_scores(
    folder: Path, scores: Mapping[str, Mapping[str, Scores]], failures: Mapping[str, str], section: TrackSection
) -> None:
    """Write metrics.json (means, clips, failures, params; null is no number), summary.json and metrics.csv."""
    rows = [(name, who, own) for name, of_clip in scores.items() for who, own in of_clip.items()]
    means: dict[str, dict[str, float | int | None]] = {}
    for who in dict.fromkeys(who for _, who, _ in rows):
        table = [own for _, other, own in rows if other == who]
        values = np.array([list(own.values()) for own in table])
        over_clips = mean_over_clips(values, params=ScoringParams.preset(section.convention))
        named = dict(zip(table[0], over_clips.mean.tolist(), strict=True))
        num_empty = sum(bool(np.isnan(own["average_pts_within_thresh"])) for own in table)
        means[who] = {**_finite(named), "num_clips": len(table), "num_empty": num_empty}
    clips = {name: {who: _finite(own) for who, own in of_clip.items()} for name, of_clip in scores.items()}
    report = {"mean": means, "clips": clips, "failed": failures, "params": asdict(section)}
    (folder / "metrics.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    summary = {who: {name: values[name] for name in SUMMARY if name in values} for who, values in means.items()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "tracker", *(rows[0][2] if rows else ())])
        writer.writerows([name, who, *_finite(own).values()] for name, who, own in rows)


def _finite(scores: Scores) -> dict[str, float | None]:
    """Put null where there is no number."""
    return {key: None if np.isnan(value) else value for key, value in scores.items()}


if __name__ == "__main__":
    run("track", main)
