"""Stage: everything that earlier stages wrote -> one page, its figures and its videos."""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from difftrack.artifacts import read_json
from difftrack.datasets import Tracks, read_clip, read_clip_kind, read_manifest, read_tracks
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, run, tell
from difftrack.reports import (
    BackboneResults,
    ReportClips,
    ReportParams,
    Samples,
    TrackedClip,
    TrackingResults,
    example_clips,
    maps_from_scores,
    read_samples,
    read_tracked_clip,
    results_from_metrics,
    write_report,
)
from difftrack.store import Store, StoreError, open_store


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`, `tracks`, `samples`, and per backbone `descriptors`, `scores` and `predictions`; write `report`.

    The page shows the backbones of params.yaml in its order, each as far as it was scored, tracked and kept; what
    earlier ones left in the folders is not shown. What
    there must be and cannot be read is named at the end, after a page without it.
    """
    section = parse(ReportParams, params["report"], "report")
    wanted = read_manifest(deps["clips"])
    tell(wanted.remarks(deps["clips"]))
    found = _Found(deps, section, wanted.names)
    backbones = [found.results(name) for name in _with_results(params["backbones"], deps)]
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("report", total=None)
        write_report(
            outs["report"],
            found.footage,
            backbones,
            params=section,
            samples=found.samples(),
            anew=params.get("force", False),
            progress=lambda part: bar.update(task, description=part),
        )
    if found.problems:
        listed = "\n".join(f"  {problem}" for problem in found.problems)
        sys.exit(f"report: the page lacks what cannot be used, {len(found.problems)} in all\n{listed}")


def _with_results(backbones: Iterable[str], deps: Paths) -> list[str]:
    """Those of the wanted backbones that have been scored, or have tracked."""
    scores = deps["scores"]
    found = {path.parent.name for path in (*scores.glob("*/scores.json"), *deps["predictions"].glob("*/metrics.json"))}
    if not (names := [name for name in backbones if name in found]):
        others = f"; there are scores of {', '.join(sorted(found))}" if found else ""
        raise ValueError(f"{scores} holds no scores of {', '.join(backbones)}{others}; run the score stage first")
    return names


class _Found:
    """What earlier stages wrote, and what of it there must be and cannot be used."""

    def __init__(self, deps: Paths, section: ReportParams, wanted: Sequence[str]) -> None:
        self.problems: list[str] = []
        self._deps, self._section, self._wanted = deps, section, wanted
        self.footage = self._footage()

    def _footage(self) -> ReportClips:
        """The clips that there must be, less those that cannot be read or have no tracks."""
        clips, most = self._deps["clips"], self._section.max_videos
        read = lru_cache(maxsize=most)(partial(read_clip, clips))  # checked, drawn, then listed
        truth: dict[str, Tracks] = {}
        for name in self._wanted:
            with self._noting(name):
                read(name)
                truth[name] = read_tracks(self._deps["tracks"], name)
        return ReportClips(truth=truth, read=read, kind=partial(read_clip_kind, clips))

    def results(self, name: str) -> BackboneResults:
        """Open what was found out about one backbone; where it was not tracked at all there is nothing on tracking."""
        folder = self._deps["descriptors"] / name / "analysis"
        scored = (self._deps["scores"] / name / "scores.json").exists()
        store = open_store(folder) if folder.is_dir() else None
        analysis: dict[str, Any] = {}
        if store is not None:
            described = [clip for clip in self.footage.truth if clip not in store.manifest().left_out]
            analysis = self._made_with(store, described, "analysis")
        scores = _json(self._deps["scores"] / name / "scores.json", "score") if scored else None
        if scores is not None:
            if store is not None:
                self._compare(described, scores["groups"]["all"]["clips"], f"{name}: scores.json", "score")
            analysis |= {
                "matches": {"convention": scores["match_convention"]},
                "scores": {"convention": scores["convention"], **scores["scoring"]},
            }
        tracked, results, tracking = self._tracking(name)
        return BackboneResults(
            name=name,
            scores=None if scores is None else maps_from_scores(scores, backbone=name),
            examples=[] if store is None else example_clips(store, self.footage, self._section),
            tracked=tracked,
            results=results,
            provenance={**analysis, **tracking},
        )

    def samples(self) -> Samples | None:
        """Samples with and without guidance; None where there are none."""
        with self._noting("samples"):
            return read_samples(self._deps["samples"]) if "samples" in self._deps else None
        return None

    def _tracking(self, name: str) -> tuple[list[TrackedClip], list[TrackingResults], dict[str, Any]]:
        """Tracks of one backbone over the clips that its tracking view was to hold, their means and their making."""
        predictions, descriptors = self._deps["predictions"] / name, self._deps["descriptors"] / name / "tracking"
        if not (predictions / "metrics.json").exists() and not any(predictions.glob("*.npz")):
            return [], [], {}
        store = open_store(descriptors) if descriptors.exists() else None
        metrics = _json(predictions / "metrics.json", "track")
        left_out = {*(store.manifest().left_out if store else {}), *metrics.get("left_out", {})}
        expected, tracked = [clip for clip in self.footage.truth if clip not in left_out], []
        for clip in expected:
            with self._noting(name):
                file = predictions / f"{clip}.npz"
                tracked.append(read_tracked_clip(file, self.footage.truth[clip], backbone=name))
        self._compare(expected, metrics.get("clips", {}), f"{name}: metrics.json", "track")
        made_with = self._made_with(store, expected, "tracking") if store else {}
        results = results_from_metrics(metrics, backbone=name)
        return tracked, results, {**made_with, "tracks": metrics.get("params", {})}

    def _compare(self, expected: Sequence[str], found: Collection[str], what: str, stage: str) -> None:
        """Note where the means of an earlier stage are over other clips than there must be."""
        if fewer := [clip for clip in expected if clip not in found]:
            self.problems.append(f"{what} is without {', '.join(fewer)}; run the {stage} stage again")
        if more := [clip for clip in found if clip not in self._wanted]:
            self.problems.append(f"{what} counts {', '.join(more)}, not wanted any more; run all stages again")

    def _made_with(self, store: Store, clips: Sequence[str], view: str) -> dict[str, Any]:
        """What the descriptors of a view depend on besides the clip: once for each mode in which it was made."""
        parts, groups = [], store.manifest().groups
        for group in (group for clip in clips for group in groups.get(clip, ())):
            with self._noting(view):
                parts.append(store.spec(group).fingerprint_parts)
        first_of_mode = {own.get("mode"): own for own in reversed(parts)}
        return {
            f"{view}, {mode}": {key: value for key, value in own.items() if key not in ("clip", "frames", "mode")}
            for mode, own in sorted(first_of_mode.items(), key=lambda pair: str(pair[0]))
        }

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Keep what cannot be used for the end."""
        try:
            yield
        except StoreError as error:
            self.problems.append(f"{what}: {error}; run the extract stage again")
        except (ValueError, OSError) as error:
            self.problems.append(f"{what}: {error}")


def _json(path: Path, stage: str) -> dict[str, Any]:
    way_out = f"run the {stage} stage again"
    content = read_json(path, way_out=way_out)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}, no results; {way_out}")
    return content


def run_stage() -> None:
    """Run this stage with what the command line names."""
    run("report", main, whole=True, borrows="copies")
