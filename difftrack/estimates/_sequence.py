"""Determine the stages that commands run, including earlier stages."""

import re
from collections.abc import Sequence

__all__ = ["EVERYTHING", "STAGES", "stages_of"]

STAGES = ("synthesize", "annotate", "extract", "survey", "match", "score", "track", "track_live", "guide", "report")
"""Names of all stages, in the order in which they run."""

_BEFORE = {
    "annotate": ("synthesize",),
    "extract": ("synthesize",),
    "survey": ("synthesize", "annotate"),
    "match": ("synthesize", "annotate", "extract:analysis"),
    "score": ("synthesize", "annotate", "extract:analysis", "match"),
    "track": ("synthesize", "annotate", "extract:tracking"),
}
"""Target -> stages that DVC runs before it."""
EVERYTHING = ("synthesize", "annotate", "extract:analysis", "extract:tracking", "survey", "match", "score", "track")


def stages_of(commands: Sequence[str]) -> list[str]:
    """List the stages that commands run, including earlier stages, in order: `extract:tracking`, `survey` ...

    Args:
        commands: `dvc repro TARGET ...` and `python -m difftrack.pipeline STAGE ...`, as in a preset.
    """
    stages: list[str] = []
    for command in commands:
        if found := re.match(r"python -m difftrack\.pipeline (\w+)", command):
            stages.append(found[1])
        for target in re.findall(
            r"(?<= )(\w+)(?:@\S+)?(?= |$)", command.removeprefix("dvc repro") if "dvc" in command else ""
        ):
            stages += _BEFORE.get(target, ())
            if target != "extract":
                stages.append(target)
        for view in re.findall(r"extract@\S+-(analysis|tracking)", command):
            stages.append(f"extract:{view}")
    order = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(dict.fromkeys(stages), key=lambda stage: order[stage.partition(":")[0]])
