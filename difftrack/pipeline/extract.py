"""Stage: clips -> descriptors of one backbone in one view; an interrupted run is resumed."""

import gc
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from difftrack.datasets import read_manifest
from difftrack.distribution import ClipWorker, Job, ProgressCallback, part_of, run_clips
from difftrack.extraction import (
    ClipReader,
    ExtractParams,
    GroupShelf,
    kept_in,
    lay_others_aside,
)
from difftrack.interrupts import one_too_large
from difftrack.keeping import Keeper
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, end, finished, kept_folder, run, say, tell
from difftrack.planning import outline_clips, plan_extraction
from difftrack.store import write_manifest
from difftrack.store.torch_writer import WriteQueue
from difftrack.workflows.extract import queue_descriptors

MOST_WRITERS = 8
"""Maximum number of automatic writer threads with a GPU; after a clip's last layer only they delay the next clip."""


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`; write the store `descriptors` of the backbone and view in `params["item"]`."""
    item, store = params["item"], str(outs["descriptors"])
    job = ExtractJob(json.dumps(params), deps["clips"], store, str(kept_folder(outs, "descriptors")))
    section, wanted = job.section, read_manifest(deps["clips"])
    tell([*wanted.remarks(deps["clips"]), *job.source().extractor.backbone.remarks])
    manifest = job.source().manifest(wanted.clips)
    names, left_out = manifest.clips, manifest.left_out
    if not names:
        raise ValueError("; ".join(["no clip can be extracted", *left_out.values()]))
    mine = part_of(names, item.get("part"))
    outlines, failures = outline_clips(job.source(), mine)
    name = f"extract {item['backbone']}, {item['view']}"
    plan = plan_extraction(job.source(), section, outlines, name=name, store=store, left_out=left_out)
    print("\n".join(plan.lines()))
    plan.check(share=len(mine) / len(names) if mine else 1.0)
    write_manifest(store, manifest)
    if section.replace_stale:
        lay_others_aside(store, [*names, *left_out], outlines, job.keeper())
        job.keeper().settle()
    todo = list(outlines)
    if section.workers != 1 or section.scheduler is not None:
        todo = [clip for clip in todo if job.create(clip, failures)]
        job.source.cache_clear()  # the workers load their own weights
        job.shelf.cache_clear()
        gc.collect()
        torch.cuda.empty_cache()
    with _progress() as bar:
        task = bar.add_task("", total=plan.raw_bytes, clips=f"0 of {len(todo)} clips")

        def report(num_bytes: int) -> None:
            bar.advance(task, num_bytes)

        outcomes = run_clips(job, todo, workers=section.workers, scheduler=section.scheduler, report=report)
        for count, (clip, problem) in enumerate(finished(outcomes, todo), start=1):
            bar.update(task, clips=f"{count} of {len(todo)} clips")
            failures |= {clip: problem} if problem else {}
    job.keeper().settle()
    end("extract", failures, total=len(mine))


@dataclass(frozen=True)
class ExtractJob(Job):
    """Job that extracts clips in any process."""

    params: str
    """All of params.yaml and the matrix cell, as JSON."""
    clips: Path
    store: str
    kept: str
    """The folder of kept artifacts."""

    @cached_property
    def sections(self) -> Mapping[str, Any]:
        """The sections of params.yaml, with the matrix cell as `item`; parsed once in each process."""
        sections: Mapping[str, Any] = json.loads(self.params)
        return sections

    @cached_property
    def section(self) -> ExtractParams:
        """The section `extract`."""
        return parse(ExtractParams, self.sections["extract"], "extract")

    @cache  # noqa: B019 - one job per process, which keeps its weights
    def source(self) -> ClipReader:
        """The reader of clips with its backbone, opened once in each process."""
        item = self.sections["item"]
        return ClipReader.open(self.sections, backbone=item["backbone"], view=item["view"], folder=self.clips)

    @cache  # noqa: B019 - one job per process
    def keeper(self) -> Keeper:
        """The keeper of groups that are removed from the store."""
        item = self.sections["item"]
        kind = f"descriptors/{item['backbone']}/{item['view']}"
        return Keeper(kept_in(self.kept, self.store), kind, budget=self.section.keep_bytes)

    @cache  # noqa: B019 - one job per process
    def shelf(self) -> GroupShelf:
        """The store with its keeper."""
        section = self.section
        return GroupShelf(
            self.store,
            section.store,
            self.keeper(),
            self.source().extractor.backbone.made_by(ClipReader.__module__, WriteQueue.__module__),
            reuse=section.reuse,
            replace=section.replace_stale,
            anew=self.sections.get("force", False),
            waiting=partial(say, "extract"),
        )

    def create(self, clip: str, failures: dict[str, str]) -> bool:
        """Create the groups of a clip without values; record a clip that cannot be used in `failures`."""
        try:
            extraction = self.source().prepare(clip)
            for group, spec in extraction.groups.items():
                self.shelf().open(group, spec, extraction.text).close()
        except (ValueError, OSError) as error:
            failures[clip] = str(error)
        return clip not in failures

    def open(self) -> ClipWorker:
        """See `Job`."""
        return _Extractor(self)


class _Extractor(ClipWorker):
    """Writes the groups of clips; the previous clip's files may still be written while a clip is computed."""

    def __init__(self, job: ExtractJob) -> None:
        section, on_gpu = job.section, job.source().extractor.backbone.device.type == "cuda"
        automatic = min(MOST_WRITERS, os.cpu_count() or 1) if on_gpu else 0
        writers = automatic if section.writers == "auto" else section.writers
        self._job = job
        self._queue = WriteQueue(num_threads=writers, depth=section.write_depth)
        self._finishing = ThreadPoolExecutor(1)

    def expect(self, clip: str) -> None:
        """See `ClipWorker`."""
        self._job.source().expect(clip)

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """See `ClipWorker`."""
        with one_too_large(self._job.source().if_too_large):
            extraction = self._job.source().prepare(clip)
            groups = queue_descriptors(extraction, self._job.shelf(), self._queue, report=report)
        for group, error in extraction.round_trip_errors.items():
            print(f"{group}: inversion returns to the clean latents within {error:.1e}")
        return self._finishing.submit(_wait_for, groups)

    def close(self) -> None:
        """See `ClipWorker`."""
        self._queue.close()
        self._finishing.shutdown()


def _wait_for(groups: Sequence[Future[None]]) -> None:
    for group in groups:
        group.result()


def _progress() -> Progress:
    columns = (TextColumn("{task.fields[clips]}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), disable=not sys.stderr.isatty())


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("extract", main, whole=True, resumes=True, alone=False, borrows="links")
