"""Stage: descriptors of the tracking view -> tracks, with TAP-Vid metrics of the tracker and of baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difftrack.annotation import TrackerUnavailableError
from difftrack.datasets import Tracks, read_clip, read_tracks
from difftrack.evaluation import TrackSection
from difftrack.interrupts import one_too_large
from difftrack.metrics import ClipScores
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, end, run, tell
from difftrack.pipeline._track_scores import TrackedScores, best_layers_of, scored_queries
from difftrack.scenes import Scenes
from difftrack.store import Store, open_store
from difftrack.tracking import PredictedTracks, cuts_line, stored_clips, write_predictions
from difftrack.workflows.track import num_stored_frames, track_by_baselines, track_stored_clip


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `descriptors`, `tracks`, `clips` and, with `layers: best`, `best_layers`; write the folder `predictions`."""
    section = parse(TrackSection, params, "track")
    best_layers = best_layers_of(deps, section)
    store, folder = open_store(deps["descriptors"]), outs["predictions"]
    folder.mkdir(parents=True, exist_ok=True)
    scored = TrackedScores(section)
    tell(store.manifest().remarks(deps["descriptors"]))
    if not (names := stored_clips(store)):
        raise ValueError(f"{deps['descriptors']} contains no clip of a tracking view; run the extract stage first")
    for name in each(names, "track"):
        try:
            num_frames = num_stored_frames(store, name, kind=section.kind)
            chosen = scored_queries(read_tracks(deps["tracks"], name), section, num_frames=num_frames)
            if not scored.takes(name, chosen):
                continue
            with one_too_large("set track.device to cpu, or track fewer points"):
                predictions, scenes = _track(store, name, chosen.truth, num_frames, deps["clips"], section, best_layers)
            queries = chosen.truth.query_points
            write_predictions(folder / f"{name}.npz", queries, predictions, points=chosen.places, cuts=scenes.cuts)
            if scenes.cuts:
                print(f"{name}: {cuts_line(scenes)}")
            scored.scores[name] = ClipScores.compare(predictions, chosen.truth, query_mode=section.query_mode)
        except TrackerUnavailableError:
            raise
        except (ValueError, OSError) as error:
            scored.failures[name] = str(error)
    scored.write(folder)
    end("track", scored.failures, total=len(names), of="extract")


def _track(
    store: Store,
    name: str,
    truth: Tracks,
    num_frames: int,
    clips: Path,
    section: TrackSection,
    best_layers: list[int] | None,
) -> tuple[dict[str, PredictedTracks], Scenes]:
    """Track the truth's queries with the tracker and the baselines, in pixels of the clip's frames."""
    queries, frames = truth.query_points, read_clip(clips, name).frames[:num_frames]
    tracks, scenes = track_stored_clip(store, name, queries, section, frames=frames, best_layers=best_layers)
    others = track_by_baselines(frames, queries, section, scenes=scenes)
    return {"tracker": tracks, **others}, scenes


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("track", main)
