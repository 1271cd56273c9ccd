"""Stage: clips and tracks -> matches over the whole map of steps and layers, without storing descriptors.

The stage matches while the model runs and writes the same format as `match`, which `score` reads. The matches take
megabytes where descriptors would take terabytes.
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

from difftrack.correspondence import ClipMatcher, MatchSection, descriptors_of, label_matches
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


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips` and `tracks`; write a group of `matches` for each clip."""
    kept = str(kept_folder(outs, "matches"))
    job = SurveyJob(json.dumps(params), deps["clips"], deps["tracks"], str(outs["matches"]), kept)
    extract = parse(ExtractParams, params["extract"], "extract")
    listed = read_manifest(deps["clips"])
    manifest = job.source().manifest(listed.clips)
    backbone = job.source().extractor.backbone
    tell([*listed.remarks(deps["clips"]), *manifest.remarks(outs["matches"]), *backbone.remarks])
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
    """Job that surveys clips in any process."""

    params: str
    """All of params.yaml and the matrix cell, as JSON."""
    clips: Path
    tracks: Path
    matches: str
    kept: str
    """The folder of kept artifacts."""

    @cached_property
    def sections(self) -> Mapping[str, Any]:
        """The sections of params.yaml, with the matrix cell as `item`; parsed once in each process."""
        sections: Mapping[str, Any] = json.loads(self.params)
        return sections

    @cached_property
    def section(self) -> SurveySection:
        """The section `survey`."""
        return parse(SurveySection, self.sections["survey"], "survey")

    @cache  # noqa: B019 - one job per process
    def shelf(self) -> ResultShelf:
        """The matches with their keeper."""
        kind = f"survey/{self.sections['item']['backbone']}"
        keeper = Keeper(kept_in(self.kept, self.matches), kind, budget=self.section.keep_bytes)
        return ResultShelf(self.matches, keeper, reuse=self.section.reuse, anew=self.sections.get("force", False))

    @cache  # noqa: B019 - one job per process, which keeps its weights
    def source(self) -> ClipReader:
        """The reader of clips with its backbone, restricted to the surveyed steps and layers."""
        kinds = list(dict.fromkeys(own for kind in self.section.kinds for own in descriptors_of(kind)))
        view = {"steps": self.section.steps, "layers": self.section.layers, "heads": "all", "descriptors": kinds}
        extract = self.sections["extract"]
        surveyed = {**self.sections, "extract": {**extract, "analysis": {**extract["analysis"], **view}}}
        backbone = self.sections["item"]["backbone"]
        return ClipReader.open(surveyed, backbone=backbone, view="analysis", folder=self.clips)

    def open(self) -> ClipWorker:
        """See `Job`."""
        return _Surveyor(self)


class _Surveyor(ClipWorker):
    """Matches clips while the model runs on them."""

    def __init__(self, job: SurveyJob) -> None:
        match = parse(MatchSection, job.sections["match"], "match")
        self._job = job
        self._match = replace(match, kinds=job.section.kinds, per_head=job.section.per_head)
        self._stored = parse(ExtractParams, job.sections["extract"], "extract").store

    def expect(self, clip: str) -> None:
        """See `ClipWorker`."""
        self._job.source().expect(clip)

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """See `ClipWorker`; stored matches with the same provenance are reused."""
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
            **({} if self._match.frequencies.keeps_all else {"frequencies": asdict(self._match.frequencies)}),
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
            matcher = ClipMatcher(self._match, points_xy_px, spec.grid.stride_px, spec.joint_text_mask, spec.rotary)
            cells = {}

            def match(unit: CapturedUnit) -> None:
                cells[unit.step, unit.layer] = matcher.match(lambda kind: as_read(unit.tensors[kind], self._stored))

            extraction.run(extraction.plan(group), match)
            dataset = label_matches(cells, spec, points=points, points_xy_px=points_xy_px)
            write_results(self._job.matches, clip, dataset, {**provenance, "made_by": made_by.to_json()})

    def close(self) -> None:
        """See `ClipWorker`."""


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("survey", main, whole=True, resumes=True, alone=False, borrows="links")
