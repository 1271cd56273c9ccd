"""Stage: clips -> descriptors of one backbone in one view, run by run, resumed where an earlier run stopped."""

import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor

from difftrack.backbones import ModelParams, load_backbone, read_trajectory
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.datasets import Clip, clip_names, read_clip
from difftrack.extraction import AnalysisParams, ClipExtraction, Extractor, TrackingViewParams, Unit
from difftrack.params import parse
from difftrack.store import StoreParams, check_space, create_group, planned_bytes
from stages._run import Paths, run

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSection(TrackingViewParams):
    """`extract.tracking`: what the model is run on, and in which chunks of frames."""

    chunks: ChunkParams = field(default_factory=ChunkParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSection:
    """`extract`: everything that changes what the model computes, and how that is kept."""

    analysis: AnalysisParams
    tracking: TrackingSection
    store: StoreParams = field(default_factory=StoreParams)
    max_bytes: float = 100e9
    """Uncompressed size of one store beyond which nothing is started."""
    replace_stale: bool = True
    """Replace descriptors that were written with other params, and drop those of clips that are gone; else refuse."""


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`; write the store `descriptors` of the backbone and view that `params["item"]` names."""
    section = parse(ExtractSection, params["extract"], "extract")
    name, view = params["item"]["backbone"], params["item"]["view"]
    model = parse(ModelParams, params["backbones"][name] or {}, f"backbones.{name}")
    extractor = Extractor(load_backbone(name, model), section.tracking if view == "tracking" else section.analysis)
    preparation = _Preparation(extractor, section, deps["clips"])
    store, failures = outs["descriptors"], dict[str, str]()

    names = clip_names(deps["clips"])
    planned = dict(_attempt(names, preparation.planned_bytes, failures))
    there = sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) if store.exists() else 0
    check_space(store, max(sum(planned.values()) - there, 0), max_bytes=section.max_bytes)
    if section.replace_stale and store.exists():
        _drop_clips_that_are_gone(store, names)
    with _progress() as bar:
        task = bar.add_task("", total=sum(planned.values()), clips="")

        def extract(clip: str) -> None:
            bar.update(task, clips=f"clip {list(planned).index(clip) + 1} of {len(planned)}")
            extraction = preparation.of(clip)
            for unit in _write_missing(extraction, store, section):
                bar.advance(task, sum(array.nbytes for array in unit.arrays.values()))
            for group, error in extraction.round_trip_errors.items():
                bar.console.print(f"{group}: inversion returns to the clean latents within {error:.1e}")

        deque(_attempt(list(planned), extract, failures), maxlen=0)
    if failures:
        listed = "\n".join(f"  {clip}: {cause}" for clip, cause in failures.items())
        sys.exit(f"extract: {len(failures)} of {len(names)} clips failed\n{listed}")


@dataclass(frozen=True, slots=True)
class _Preparation:
    """Introduces clips, their trajectories and the chunk schedule to the extractor."""

    extractor: Extractor
    section: ExtractSection
    clips: Path

    def of(self, name: str) -> ClipExtraction:
        clip = read_clip(self.clips, name)
        chunks = None
        if self.extractor.frames_alone:
            chunks = chunk_schedule(clip.num_frames, self.section.tracking.chunks)
        return self.extractor.prepare(clip, chunks=chunks, trajectory=self._trajectory(clip))

    def planned_bytes(self, name: str) -> int:
        return sum(planned_bytes(spec, self.section.store) for spec in self.of(name).groups.values())

    def _trajectory(self, clip: Clip) -> Tensor | None:
        file = self.clips / clip.name / "trajectory.safetensors"
        if self.extractor.params.mode.of(clip) != "generate" or not file.exists():
            return None
        return read_trajectory(file, fingerprint=self.extractor.backbone.fingerprint)


def _write_missing(extraction: ClipExtraction, store: Path, section: ExtractSection) -> Iterator[Unit]:
    """Write what each group of a clip still lacks, and declare it complete."""
    for group, spec in extraction.groups.items():
        writer = create_group(store, group, spec, params=section.store, replace=section.replace_stale)
        for unit in extraction.units(group, writer.missing()):
            writer.write(unit.step, unit.layer, unit.arrays)
            yield unit
        writer.finish()


def _attempt(names: Sequence[str], action: Callable[[str], T], failures: dict[str, str]) -> Iterator[tuple[str, T]]:
    """Do something for each clip; a clip that cannot be used is noted and the others go on."""
    for name in names:
        try:
            yield name, action(name)
        except (ValueError, OSError) as error:
            failures[name] = str(error)


def _drop_clips_that_are_gone(store: Path, names: Sequence[str]) -> None:
    for folder in store.iterdir():
        if folder.is_dir() and folder.name not in names:
            shutil.rmtree(folder)


def _progress() -> Progress:
    columns = (TextColumn("{task.fields[clips]}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), disable=not sys.stderr.isatty())


if __name__ == "__main__":
    run("extract", main, whole=True)
