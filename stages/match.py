"""Stage: descriptors of the analysis view + query points -> matches and attention of every step, layer and head."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from difftrack.correspondence import Cell, ClipMatcher, MatchSection, label_matches
from difftrack.datasets import read_tracks
from difftrack.geometry import rescale_points
from difftrack.params import parse
from difftrack.store import Store, open_store, write_manifest, write_results
from stages._run import Paths, each, end, run, tell

MOST_THREADS = 8
"""On a CPU; each holds the descriptors of one (step, layer)."""


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `descriptors` and `tracks`; write a group of `matches` per clip."""
    section = parse(MatchSection, params, "match")
    store = open_store(deps["descriptors"])
    manifest = store.manifest()
    tell(manifest.remarks(deps["descriptors"]))
    write_manifest(outs["matches"], manifest)
    failures: dict[str, str] = {}
    for clip in each(manifest.clips, "match"):
        try:
            matches = _match(store, clip, deps["tracks"], section)
            write_results(outs["matches"], clip, matches, _provenance(store, clip, section))
        except (ValueError, OSError) as error:
            failures[clip] = str(error)
    end("match", failures, total=len(manifest.clips), of="extract")


def _match(store: Store, clip: str, tracks_folder: Path, section: MatchSection) -> xr.Dataset:
    """Match the points that are queried in a clip's first frame, in every step and layer."""
    tracks, spec = read_tracks(tracks_folder, clip), store.spec(clip)
    points = np.flatnonzero(tracks.query_points[:, 0] == spec.frames[0])
    points_xy_px = rescale_points(
        tracks.query_points[points, 1:], from_size=(tracks.height, tracks.width), to_size=spec.size
    )
    matcher = ClipMatcher(section, points_xy_px, spec.grid.stride_px, spec.text_mask)

    def match(unit: tuple[int, int]) -> Cell:
        step, layer = unit
        return matcher.match(lambda kind: torch.from_numpy(store.sel(clip=clip, step=step, layer=layer, kind=kind)))

    cells = dict(zip(spec.units, _each(match, spec.units, on_cpu=matcher.device == "cpu"), strict=True))
    return label_matches(cells, spec, points=points, points_xy_px=points_xy_px)


def _each(match: Callable[[tuple[int, int]], Cell], units: Sequence[tuple[int, int]], *, on_cpu: bool) -> list[Cell]:
    """Match in every (step, layer); on a CPU each on one core, so that no bit depends on how many there are."""
    if not on_cpu:
        return [match(unit) for unit in units]
    with ThreadPoolExecutor(
        min(os.cpu_count() or 1, MOST_THREADS), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return list(pool.map(match, units))


def _provenance(store: Store, clip: str, section: MatchSection) -> dict[str, Any]:
    """What the numbers depend on."""
    spec = store.spec(clip)
    return {
        "convention": section.convention,
        "matching": asdict(section.matching),
        "descriptors": store.fingerprint(clip),
        "size": list(spec.size),
        "temporal_stride": spec.grid.temporal_stride,
        "first_frames": spec.grid.first_frames,
    }


if __name__ == "__main__":
    run("match", main)
