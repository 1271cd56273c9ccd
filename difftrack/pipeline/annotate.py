"""Stage: clips -> tracks, visibility and query points of every clip."""

from collections.abc import Mapping
from typing import Any

from difftrack.annotation import AnnotateParams, TrackerUnavailableError, annotate_clip
from difftrack.datasets import read_clip, read_given_tracks, read_manifest, write_tracks
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, end, run, tell


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `clips`; write `tracks`. A clip that cannot be annotated is named at the end, after the others.

    A tracker that cannot be loaded ends the run at once: it would fail, slowly, for every clip.
    """
    annotate = parse(AnnotateParams, params, "annotate")
    wanted = read_manifest(deps["clips"])
    names = wanted.names
    tell(wanted.remarks(deps["clips"]))
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
    """Run this stage with what the command line names."""
    run("annotate", main)
