"""Stage: the results of all earlier stages -> one page with figures and videos."""

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
    CauseStudy,
    ReportClips,
    ReportParams,
    Samples,
    TrackedClip,
    TrackingResults,
    example_clips,
    maps_from_scores,
    read_cause_study,
    read_samples,
    read_tracked_clip,
    results_from_metrics,
    write_report,
)
from difftrack.store import Store, StoreError, open_store


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`, `tracks`, `samples`, and each backbone's `descriptors`, `scores`, `predictions`; write `report`.

    The page shows the backbones of params.yaml in their order, each with its available results. Results of other
    backbones are not shown. Missing or unreadable results are left out and reported at the end.
    """
    section = parse(ReportParams, params["report"], "report")
    manifest = read_manifest(deps["clips"])
    tell(manifest.remarks(deps["clips"]))
    found = _Results(deps, section, manifest.names)
    backbones = [found.results(name) for name in _with_results(params["backbones"], deps)]
    found.check_causes(backbones)
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
        sys.exit(f"report: the page was written without {len(found.problems)} unusable results\n{listed}")


def _with_results(backbones: Iterable[str], deps: Paths) -> list[str]:
    """Select the backbones that have scores or predictions."""
    scores = deps["scores"]
    found = {path.parent.name for path in (*scores.glob("*/scores.json"), *deps["predictions"].glob("*/metrics.json"))}
    if not (names := [name for name in backbones if name in found]):
        others = f"; there are scores for {', '.join(sorted(found))}" if found else ""
        raise ValueError(f"{scores} contains no scores for {', '.join(backbones)}{others}; run the score stage first")
    return names


class _Results:
    """Reads the results of earlier stages, and collects problems with missing or unusable results."""

    def __init__(self, deps: Paths, section: ReportParams, names: Sequence[str]) -> None:
        self.problems: list[str] = []
        self._deps, self._section, self._names = deps, section, names
        self.footage = self._footage()
        self._study: CauseStudy | None = None
        with self._noting("report.causes"):
            self._study = read_cause_study(section.causes)

    def _footage(self) -> ReportClips:
        """Return the clips of the manifest, without clips that cannot be read or have no tracks."""
        clips, most = self._deps["clips"], self._section.max_videos
        read = lru_cache(maxsize=most)(partial(read_clip, clips))  # checked, drawn, then listed
        truth: dict[str, Tracks] = {}
        for name in self._names:
            with self._noting(name):
                read(name)
                truth[name] = read_tracks(self._deps["tracks"], name)
        return ReportClips(truth=truth, read=read, kind=partial(read_clip_kind, clips))

    def results(self, name: str) -> BackboneResults:
        """Read the results of one backbone; tracking results are empty if it was not tracked."""
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
            causes=self._causes({**analysis, **tracking}),
        )

    def check_causes(self, backbones: Sequence[BackboneResults]) -> None:
        """Record a problem if the study that params.yaml names is of none of the backbones."""
        if self._section.causes and self._study and all(backbone.causes is None for backbone in backbones):
            names = ", ".join(backbone.name for backbone in backbones)
            self.problems.append(
                f"report.causes: {self._section.causes} is of other weights than {names}; run `difftrack ablate` with "
                "these weights, or set report.causes to null"
            )

    def _causes(self, made_with: Mapping[str, Any]) -> CauseStudy | None:
        """Return the study of heads if it is of the weights that the descriptors are of."""
        weights = {parts.get("backbone") for parts in made_with.values() if isinstance(parts, Mapping)}
        return self._study if self._study and self._study.backbone in weights else None

    def samples(self) -> Samples | None:
        """Read samples with and without guidance; None if there are none."""
        with self._noting("samples"):
            return read_samples(self._deps["samples"]) if "samples" in self._deps else None
        return None

    def _tracking(self, name: str) -> tuple[list[TrackedClip], list[TrackingResults], dict[str, Any]]:
        """Read a backbone's tracks for the clips of its tracking view, their means, and their provenance."""
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
        """Record a problem if an earlier stage's means cover other clips than the manifest."""
        if fewer := [clip for clip in expected if clip not in found]:
            self.problems.append(f"{what} does not contain {', '.join(fewer)}; run the {stage} stage again")
        if more := [clip for clip in found if clip not in self._names]:
            self.problems.append(
                f"{what} contains {', '.join(more)}, which the manifest no longer lists; run all stages again"
            )

    def _made_with(self, store: Store, clips: Sequence[str], view: str) -> dict[str, Any]:
        """Return what the descriptors of a view depend on besides the clip, once for each mode."""
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
        """Record errors as problems, for the end of the run."""
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
        raise ValueError(f"{path}: contains a {type(content).__name__} instead of results; {way_out}")
    return content


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("report", main, whole=True, borrows="copies")
