"""Stage: clips and tracks -> predicted tracks and their metrics, computed while the model runs.

The stage writes the same files as `track`, from bit-identical numbers, and stores no descriptors: its output takes
megabytes where a store would take terabytes. It is not part of dvc.yaml; run `python -m difftrack.pipeline track_live`,
as the Kinetics presets do.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.progress import track

from difftrack.datasets import read_clip, read_manifest, read_tracks
from difftrack.distribution import ClipWorker, Job, ProgressCallback, run_clips
from difftrack.evaluation import TrackSection
from difftrack.extraction import ClipExtraction, ClipReader, ExtractParams
from difftrack.interrupts import one_too_large
from difftrack.metrics import ClipScores
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, end, finished, run, tell
from difftrack.pipeline._track_scores import ScoredQueries, TrackedScores, best_layers_of, scored_queries
from difftrack.store import fingerprint_of
from difftrack.tracking import read_identity, read_predictions, write_predictions
from difftrack.workflows.track import track_by_baselines, track_chunks
from difftrack.workflows.track_live import captured_chunks


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`, `tracks` and, with `layers: best`, `best_layers`; write the folder `predictions`.

    Existing tracks are reused if params, code, weights, clip and queries are equal. Clips that the chunk schedule does
    not support, and clips without a query to score, are left out.
    """
    section = parse(TrackSection, params["track"], "track")
    extract = parse(ExtractParams, params["extract"], "extract")
    folder = outs["predictions"]
    folder.mkdir(parents=True, exist_ok=True)
    job = TrackJob(json.dumps(params), deps["clips"], deps["tracks"], folder, best_layers_of(deps, section))
    listed = read_manifest(deps["clips"])
    manifest = job.source.manifest(listed.clips)
    remarks = job.source.extractor.backbone.remarks
    tell([*listed.remarks(deps["clips"]), *manifest.remarks(folder), *remarks])
    scored = TrackedScores(section)
    outcomes = run_clips(job, manifest.clips, workers=extract.workers, scheduler=extract.scheduler)
    watched = track(outcomes, "track", total=len(manifest.clips), disable=not sys.stderr.isatty())
    scored.failures |= {clip: problem for clip, problem in finished(watched, manifest.clips) if problem}
    lengths = {clip.name: clip.num_frames or 0 for clip in listed.clips}
    for name in manifest.clips:
        if name not in scored.failures:
            chosen = job.queries(name, num_frames=job.num_frames(lengths[name]))
            if scored.takes(name, chosen):
                _, predictions = read_predictions(folder / f"{name}.npz")
                scored.scores[name] = ClipScores.compare(predictions, chosen.truth, query_mode=section.query_mode)
    scored.write(folder)
    end("track_live", scored.failures, total=len(manifest.clips))


@dataclass(frozen=True)
class TrackJob(Job):
    """Job that tracks clips in any process."""

    params: str
    """All of params.yaml and the matrix cell, as JSON."""
    clips: Path
    tracks: Path
    predictions: Path
    best_layers: list[int] | None

    @cached_property
    def sections(self) -> Mapping[str, Any]:
        """The sections of params.yaml, with the matrix cell as `item`; parsed once in each process."""
        sections: Mapping[str, Any] = json.loads(self.params)
        return sections

    @cached_property
    def section(self) -> TrackSection:
        """The section `track`."""
        return parse(TrackSection, self.sections["track"], "track")

    @cached_property
    def extract(self) -> ExtractParams:
        """The section `extract`."""
        return parse(ExtractParams, self.sections["extract"], "extract")

    @cached_property
    def source(self) -> ClipReader:
        """The reader of clips with its backbone, opened once in each process."""
        backbone = self.sections["item"]["backbone"]
        return ClipReader.open(self.sections, backbone=backbone, view="tracking", folder=self.clips)

    def num_frames(self, num_frames: int) -> int:
        """Return the number of a clip's frames that are tracked."""
        most = self.extract.tracking.chunks.video_max_len
        return num_frames if most is None else min(num_frames, most)

    def queries(self, clip: str, *, num_frames: int) -> ScoredQueries:
        """Return the queries of a clip that are tracked and scored."""
        return scored_queries(read_tracks(self.tracks, clip), self.section, num_frames=num_frames)

    def open(self) -> ClipWorker:
        """See `Job`."""
        return _Tracker(self)


class _Tracker(ClipWorker):
    """Tracks points in clips while the model runs on them."""

    def __init__(self, job: TrackJob) -> None:
        self._job = job

    def expect(self, clip: str) -> None:
        """See `ClipWorker`."""
        self._job.source.expect(clip)

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """See `ClipWorker`; existing tracks with the same identity are reused."""
        done: Future[None] = Future()
        with one_too_large(self._job.source.if_too_large):
            self._track(clip)
        done.set_result(None)
        return done

    def _track(self, clip: str) -> None:
        job, section = self._job, self._job.section
        extraction = job.source.prepare(clip)
        num_frames = 1 + max(max(spec.frames) for spec in extraction.groups.values())
        chosen = job.queries(clip, num_frames=num_frames)
        file, identity = job.predictions / f"{clip}.npz", self._identity(extraction, chosen)
        anew = bool(job.sections.get("force", False))
        if len(chosen.points) and (anew or read_identity(file) != identity):
            frames, queries = read_clip(job.clips, clip).frames[:num_frames], chosen.truth.query_points
            chunks, spec = captured_chunks(extraction, section, job.extract.store, best_layers=job.best_layers)
            tracks, scenes = track_chunks(chunks, spec, queries, section, frames=frames, best_layers=job.best_layers)
            predictions = {"tracker": tracks, **track_by_baselines(frames, queries, section, scenes=scenes)}
            write_predictions(file, queries, predictions, points=chosen.places, cuts=scenes.cuts, identity=identity)

    def _identity(self, extraction: ClipExtraction, chosen: ScoredQueries) -> str:
        """SHA-256 of everything that the tracks depend on."""
        job, section = self._job, asdict(self._job.section)
        made_by = job.source.extractor.backbone.made_by(
            ClipReader.__module__, captured_chunks.__module__, track_chunks.__module__
        )
        parts = [
            [fingerprint_of(spec, job.extract.store) for spec in extraction.groups.values()],
            {name: value for name, value in section.items() if name != "device"},
            job.best_layers,
            chosen.truth.query_points.tolist(),
            made_by.to_json(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def close(self) -> None:
        """See `ClipWorker`."""


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("track_live", main, whole=True, resumes=True)
