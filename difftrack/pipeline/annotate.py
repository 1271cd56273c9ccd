"""Stage: clips -> tracks, visibility and query points of every clip."""

from collections.abc import Mapping
from typing import Any

from difftrack.annotation import AnnotateParams, TrackerUnavailableError, annotate_clip
from difftrack.datasets import read_clip, read_given_tracks, read_manifest, write_tracks
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, end, run, tell


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`; write `tracks`. Clips that cannot be annotated are reported at the end.

    If a tracker cannot be loaded, the run ends immediately, because the tracker would fail for every clip.
    """
    annotate = parse(AnnotateParams, params, "annotate")
    manifest = read_manifest(deps["clips"])
    names = manifest.names
    tell(manifest.remarks(deps["clips"]))
    failures = {}
    for number, name in enumerate(each(names, "annotate")):
        try:
            clip, given = read_clip(deps["clips"], name), read_given_tracks(deps["clips"], name)
            write_tracks(outs["tracks"], name, annotate_clip(clip, annotate, given=given, number=number))
        except TrackerUnavailableError:
            raise
        except (ValueError, OSError) as error:
            failures[name] = str(error)
    end("annotate", failures, total=len(names))


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("annotate", main)
