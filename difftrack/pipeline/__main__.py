"""Run one stage: python -m difftrack.pipeline STAGE [key=path ...] -- [key=path ...]."""

import sys
from importlib import import_module

from difftrack.pipeline._loading import end_while_loading

STAGES = (
    "fingerprint",
    "synthesize",
    "annotate",
    "extract",
    "survey",
    "match",
    "score",
    "track",
    "track_live",
    "guide",
    "report",
)

if __name__ == "__main__":
    end_while_loading()
    if sys.argv[1:2] not in [[name] for name in STAGES]:
        sys.exit(f"usage: python -m difftrack.pipeline STAGE ...; stages: {', '.join(STAGES)}")
    stage = sys.argv.pop(1)
    import_module(f"difftrack.pipeline.{stage}").run_stage()
