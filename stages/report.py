"""Stage: everything that earlier stages wrote -> one page, its figures and its videos."""

import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from difftrack.datasets import clip_names, read_clip, read_clip_kind, read_tracks
from difftrack.documents import read_json
from difftrack.params import parse
from difftrack.reports import (
    BackboneResults,
    Footage,
    ReportParams,
    example_clips,
    maps_from_scores,
    methods_from_metrics,
    read_tracked_clip,
    write_report,
)
from difftrack.store import Store, open_store
from stages._run import Paths, run


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`, `tracks`, and per backbone `descriptors`, `scores` and `predictions`; write the folder `report`.

    The page shows the backbones of params.yaml in its order; what earlier ones left in the folders is not shown.
    """
    section = parse(ReportParams, params["report"], "report")
    annotated = [name for name in clip_names(deps["clips"]) if (deps["tracks"] / f"{name}.npz").exists()]
    footage = Footage(
        truth={name: read_tracks(deps["tracks"], name) for name in annotated},
        read=lru_cache(maxsize=section.max_videos)(partial(read_clip, deps["clips"])),  # drawn, then listed
        kind=partial(read_clip_kind, deps["clips"]),
    )
    names = _scored(params["backbones"], deps["scores"])
    backbones = [_results(name, deps, footage, section) for name in names]
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("report", total=None)
        write_report(
            outs["report"], footage, backbones, params=section, progress=lambda part: bar.update(task, description=part)
        )


def _scored(backbones: Iterable[str], scores: Path) -> list[str]:
    """Those of the wanted backbones that have been scored."""
    found = {path.parent.name for path in scores.glob("*/scores.json")}
    if not (names := [name for name in backbones if name in found]):
        others = f"; there are scores of {', '.join(sorted(found))}" if found else ""
        raise ValueError(f"{scores} holds no scores of {', '.join(backbones)}{others}; run the score stage first")
    return names


def _results(name: str, deps: Paths, footage: Footage, section: ReportParams) -> BackboneResults:
    """Open what was found out about one backbone; without predictions there is nothing on tracking."""
    store, predictions = open_store(deps["descriptors"] / name / "analysis"), deps["predictions"] / name
    scores = _json(deps["scores"] / name / "scores.json")
    tracked = [clip for clip in footage.truth if (predictions / f"{clip}.npz").exists()]
    return BackboneResults(
        name=name,
        scores=maps_from_scores(scores, backbone=name),
        examples=example_clips(store, footage, section),
        tracked=[
            read_tracked_clip(predictions / f"{clip}.npz", footage.truth[clip], backbone=name) for clip in tracked
        ],
        methods=methods_from_metrics(_json(predictions / "metrics.json"), backbone=name) if tracked else [],
        provenance={
            **_made_with(store, "analysis"),
            "matches": {"convention": scores["match_convention"]},
            "scores": {"convention": scores["convention"], **scores["scoring"]},
            **(_of_tracks(deps["descriptors"] / name / "tracking", predictions) if tracked else {}),
        },
    )


def _of_tracks(descriptors: Path, predictions: Path) -> dict[str, Any]:
    made_with = _made_with(open_store(descriptors), "tracking") if descriptors.exists() else {}
    return {**made_with, "tracks": _json(predictions / "metrics.json").get("params", {})}


def _made_with(store: Store, view: str) -> dict[str, Any]:
    """What the descriptors of a view depend on besides the clip: once for each mode in which it was made."""
    parts = [store.spec(group).fingerprint_parts for group in store.groups()]
    first_of_mode = {own.get("mode"): own for own in reversed(parts)}
    return {
        f"{view}, {mode}": {key: value for key, value in own.items() if key not in ("clip", "frames", "mode")}
        for mode, own in sorted(first_of_mode.items(), key=lambda pair: str(pair[0]))
    }


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path)
    return content


if __name__ == "__main__":
    run("report", main, whole=True)
