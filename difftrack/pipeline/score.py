"""Stage: matches + tracks -> matching accuracy, confidence, attention score and their harmonic mean."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from difftrack.correspondence import MatchingParams
from difftrack.datasets import Tracks, Truth, group_by_truth, read_clip_kind, read_tracks
from difftrack.metrics import ScoreSection, ScoringParams, combine_clips, rank_layers
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, end, run, tell
from difftrack.store import read_manifest, read_results
from difftrack.workflows.score import score_matches


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `matches`, `tracks` and `clips`; write `scores`, `summary`, `best_layers` (JSON) and `table` (CSV).

    Clips that cannot be scored are reported at the end and left out of the means. The summary and the ranking cover the
    clips with exact or annotated truth; they cover pseudo-truth only if every clip has it.
    """
    section = parse(ScoreSection, params, "score")
    manifest = read_manifest(deps["matches"])
    tell(manifest.remarks(deps["matches"]))
    matches, clips, kinds, failures = dict[str, xr.Dataset](), dict[str, xr.Dataset](), dict[str, str](), {}
    truths: dict[str, Truth] = {}
    for name in each(manifest.clips, "score"):
        try:
            kinds[name] = read_clip_kind(deps["clips"], name)
            matches[name] = read_results(deps["matches"], name)
            tracks = read_tracks(deps["tracks"], name)
            truths[name] = tracks.truth
            clips[name] = _score(matches[name], tracks, section.scoring)
        except (ValueError, OSError) as error:
            failures[name] = str(error)
    if not clips:
        end("score", failures, total=len(manifest.clips), of="match")
        raise ValueError(f"{deps['matches']} contains no clip; run the match stage first")
    names = list(clips)
    by_truth = group_by_truth({name: truths[name] for name in names})
    groups = {"all": names, **by_truth, **_by_source({name: kinds[name] for name in names})}
    headline = next(iter(by_truth))
    means = {
        group: combine_clips({name: clips[name] for name in members}, params=section.scoring)
        for group, members in groups.items()
    }
    about = {
        "convention": section.convention,
        "scoring": asdict(section.scoring),
        "match_convention": sorted({matches[name].attrs["convention"] for name in names}),
        "descriptors": {name: matches[name].attrs["descriptors"] for name in names},
        "truth": {name: asdict(truths[name]) for name in names},
        "headline": headline,
    }
    scores = {**about, "groups": {group: {"clips": groups[group], **_tables(means[group])} for group in groups}}
    _write_json(outs["scores"], scores)
    _write_csv(outs["table"], means)
    rankings = _rankings(means[headline])
    best = {name: cells[0] if cells else None for name, cells in rankings.items()}
    _write_json(outs["summary"], {"group": headline, "num_clips": len(groups[headline]), **best})
    _write_json(outs["best_layers"], _best_layers(rankings))
    end("score", failures, total=len(manifest.clips), of="match")


def _score(matches: xr.Dataset, tracks: Tracks, params: ScoringParams) -> xr.Dataset:
    """Score one clip with the parameters recorded in its matches."""
    height, width = matches.attrs["size"]
    return score_matches(
        matches,
        tracks,
        size=(height, width),
        temporal_stride=int(matches.attrs["temporal_stride"]),
        first_frames=int(matches.attrs["first_frames"]),
        matching=parse(MatchingParams, matches.attrs["matching"], "matching"),
        scoring=params,
    )


def _by_source(kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """Group clips by source: `rendered/easy`, `generated`, `folder` ..."""
    groups: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        groups.setdefault(kind, []).append(name)
    return groups


def _tables(means: xr.Dataset) -> dict[str, Any]:
    """Convert maps of scores to plain lists, with axes and labels."""
    return {
        "empty_clips": means.attrs["empty_clips"],
        "labels": {str(axis): means[axis].values.tolist() for axis in means.dims},
        "scores": {
            str(name): {"axes": list(map(str, values.dims)), "values": values.values.tolist()}
            for name, values in means.items()
        },
    }


def _rankings(means: xr.Dataset) -> dict[str, list[dict[str, float | int]]]:
    """For each score, rank the layers from best to worst, each at its best step."""
    return {
        name: [{"layer": layer, "step": step, "value": value} for layer, step, value in rank_layers(means[name])]
        for name in ("harmonic_mean", "matching_accuracy", "feature_accuracy")
        if name in means
    }


def _best_layers(rankings: Mapping[str, list[dict[str, float | int]]]) -> dict[str, Any]:
    """Return only the order of the layers, so that dependent stages rerun only when the order changes."""
    by = next(iter(rankings))
    return {"ranked_by": by, "layers": [cell["layer"] for cell in rankings[by]]}


def _write_csv(path: Path, means: Mapping[str, xr.Dataset]) -> None:
    """Write a row for each group, step, layer and head; `head` is empty in rows for all heads together."""
    rows: list[dict[str, Any]] = []
    for group, maps in means.items():
        whole = [str(name) for name in maps.data_vars if not str(name).startswith("head_")]
        head_names = [str(name) for name in maps.data_vars if str(name).startswith("head_")]
        values = {name: maps[name].transpose("step", "layer", ...).values.tolist() for name in whole}
        head_values = {name: maps[name].transpose("step", "layer", "head").values.tolist() for name in head_names}
        for (i, step), (j, layer) in product(
            enumerate(maps.step.values.tolist()), enumerate(maps.layer.values.tolist())
        ):
            at = {"group": group, "step": step, "layer": layer}
            rows.append({**at, "head": None, **{name: values[name][i][j] for name in whole}})
            for k, head in enumerate(maps["head"].values.tolist() if head_names else ()):
                found = {name.removeprefix("head_"): head_values[name][i][j][k] for name in head_names}
                rows.append({**at, "head": head, **found})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows({name: None if value != value else value for name, value in row.items()} for row in rows)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with null for NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("score", main)
