"""Stage: descriptors of the analysis view + query points -> matches and attention of every step, layer and head."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from difftrack.correspondence import MatchSection
from difftrack.datasets import read_tracks
from difftrack.interrupts import one_too_large
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, end, run, tell
from difftrack.store import Store, open_store, write_manifest, write_results
from difftrack.workflows.match import match_stored_clip


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `descriptors` and `tracks`; write a group of `matches` for each clip."""
    section = parse(MatchSection, params, "match")
    store = open_store(deps["descriptors"])
    manifest = store.manifest()
    tell(manifest.remarks(deps["descriptors"]))
    write_manifest(outs["matches"], manifest)
    failures: dict[str, str] = {}
    for clip in each(manifest.clips, "match"):
        try:
            with one_too_large("set match.device to cpu, or track fewer points"):
                matches = match_stored_clip(store, clip, read_tracks(deps["tracks"], clip), section)
            write_results(outs["matches"], clip, matches, _provenance(store, clip, section))
        except (ValueError, OSError) as error:
            failures[clip] = str(error)
    end("match", failures, total=len(manifest.clips), of="extract")


def _provenance(store: Store, clip: str, section: MatchSection) -> dict[str, Any]:
    """Return what the matches depend on."""
    spec = store.spec(clip)
    return {
        "convention": section.convention,
        "matching": asdict(section.matching),
        "descriptors": store.fingerprint(clip),
        "size": list(spec.size),
        "temporal_stride": spec.grid.temporal_stride,
        "first_frames": spec.grid.first_frames,
        **({} if section.frequencies.keeps_all else {"frequencies": asdict(section.frequencies)}),
    }


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("match", main)
