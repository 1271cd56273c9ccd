"""Stage: the whole map of steps and layers, matched as the model computes it; no descriptor is kept.

Writes what `match` writes, so that `score` reads it, in megabytes where the descriptors would take terabytes.
"""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from difftrack.correspondence import ClipMatcher, MatchSection, label_matches
from difftrack.datasets import read_manifest, read_tracks
from difftrack.distribution import ClipWorker, Job, ProgressCallback, part_of, run_clips
from difftrack.extraction import CapturedUnit, ClipReader, ExtractParams, ResultShelf, kept_in, result_identity
from difftrack.geometry import rescale_points
from difftrack.interrupts import one_too_large
from difftrack.keeping import Keeper
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, end, finished, kept_folder, run, tell
from difftrack.store import fingerprint_of, write_manifest, write_results
from difftrack.store.torch_writer import as_read
from difftrack.survey import SurveySection

KINDS_OF = {"query_key": ("query", "key"), "feature": ("feature",)}


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips` and `tracks`; write a group of `matches` per clip."""
    kept = str(kept_folder(outs, "matches"))
    job = SurveyJob(json.dumps(params), deps["clips"], deps["tracks"], str(outs["matches"]), kept)
    extract = parse(ExtractParams, params["extract"], "extract")
    wanted = read_manifest(deps["clips"])
    manifest = job.source().manifest(wanted.clips)
    backbone = job.source().extractor.backbone
    tell([*wanted.remarks(deps["clips"]), *manifest.remarks(outs["matches"]), *backbone.remarks])
    write_manifest(job.matches, manifest)
    job.shelf().lay_others_aside(manifest.clips)
    job.shelf().keeper.settle()
    clips = part_of(manifest.clips, params["item"].get("part"))
    outcomes = run_clips(job, clips, workers=extract.workers, scheduler=extract.scheduler)
    watched = track(outcomes, "survey", total=len(clips), disable=not sys.stderr.isatty())
    failures = {clip: problem for clip, problem in finished(watched, clips) if problem}
    job.shelf().keeper.settle()
    end("survey", failures, total=len(clips))


@dataclass(frozen=True)
class SurveyJob(Job):
    """What every process needs to survey clips."""

    params: str
    """All of params.yaml and the matrix cell, as JSON."""
    clips: Path
    tracks: Path
    matches: str
    kept: str
    """The folder of what no clip asks for any more."""

    @cached_property
    def sections(self) -> Mapping[str, Any]:
        """The sections of params.yaml, and the matrix cell under `item`; parsed once in each process."""
        sections: Mapping[str, Any] = json.loads(self.params)
        return sections

    @cached_property
    def section(self) -> SurveySection:
        """`survey`."""
        return parse(SurveySection, self.sections["survey"], "survey")

    @cache  # noqa: B019 - one job a process
    def shelf(self) -> ResultShelf:
        """The matches and what is kept of them."""
        kind = f"survey/{self.sections['item']['backbone']}"
        keeper = Keeper(kept_in(self.kept, self.matches), kind, budget=self.section.keep_bytes)
        return ResultShelf(self.matches, keeper, reuse=self.section.reuse, anew=self.sections.get("force", False))

    @cache  # noqa: B019 - one job a process, and its weights are to stay
    def source(self) -> ClipReader:
        """The clips and their backbone, over the part of the map that is surveyed."""
        kinds = [kind for name in self.section.kinds for kind in KINDS_OF[name]]
        view = {"steps": self.section.steps, "layers": self.section.layers, "heads": "all", "descriptors": kinds}
        extract = self.sections["extract"]
        surveyed = {**self.sections, "extract": {**extract, "analysis": {**extract["analysis"], **view}}}
        backbone = self.sections["item"]["backbone"]
        return ClipReader.open(surveyed, backbone=backbone, view="analysis", folder=self.clips)

    def open(self) -> ClipWorker:
        """See `Job`."""
        return _Surveyor(self)


class _Surveyor(ClipWorker):
    """Matches one clip after another while the model runs over it."""

    def __init__(self, job: SurveyJob) -> None:
        match = parse(MatchSection, job.sections["match"], "match")
        self._job = job
        self._match = replace(match, kinds=job.section.kinds, per_head=job.section.per_head)
        self._stored = parse(ExtractParams, job.sections["extract"], "extract").store

    def expect(self, clip: str) -> None:
        """See `ClipWorker`."""
        self._job.source().expect(clip)

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """See `ClipWorker`; a clip that is there already with the same provenance is left alone."""
        done: Future[None] = Future()
        with one_too_large(self._job.source().if_too_large):
            self._survey(clip)
        done.set_result(None)
        return done

    def _survey(self, clip: str) -> None:
        extraction = self._job.source().prepare(clip)
        ((group, spec),) = extraction.groups.items()
        provenance = {
            "convention": self._match.convention,
            "matching": asdict(self._match.matching),
            "descriptors": fingerprint_of(spec, self._stored),
            "size": list(spec.size),
            "temporal_stride": spec.grid.temporal_stride,
            "first_frames": spec.grid.first_frames,
            "kinds": list(self._match.kinds),
            "per_head": self._match.per_head,
        }
        tracks = read_tracks(self._job.tracks, clip)
        points = np.flatnonzero(tracks.query_points[:, 0] == spec.frames[0])
        points_xy_px = rescale_points(
            tracks.query_points[points, 1:], from_size=(tracks.height, tracks.width), to_size=spec.size
        )
        made_by = self._job.source().extractor.backbone.made_by(
            ClipReader.__module__, ClipMatcher.__module__, label_matches.__module__, as_read.__module__
        )
        identity = result_identity(provenance, points, points_xy_px)
        if not self._job.shelf().take_up(clip, identity, made_by):
            matcher = ClipMatcher(self._match, points_xy_px, spec.grid.stride_px, spec.text_mask)
            cells = {}

            def match(unit: CapturedUnit) -> None:
                cells[unit.step, unit.layer] = matcher.match(lambda kind: as_read(unit.tensors[kind], self._stored))

            extraction.run(extraction.plan(group), match)
            dataset = label_matches(cells, spec, points=points, points_xy_px=points_xy_px)
            write_results(self._job.matches, clip, dataset, {**provenance, "made_by": made_by.to_json()})

    def close(self) -> None:
        """See `ClipWorker`."""


def run_stage() -> None:
    """Run this stage with what the command line names."""
    run("survey", main, whole=True, resumes=True, alone=False, borrows="links")
