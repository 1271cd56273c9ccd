"""Which stages commands run, those before them included."""

import re
from collections.abc import Sequence

__all__ = ["EVERYTHING", "STAGES", "stages_of"]

STAGES = ("synthesize", "annotate", "extract", "survey", "match", "score", "track", "track_live", "guide", "report")
"""In the order in which they run."""

_BEFORE = {
    "annotate": ("synthesize",),
    "extract": ("synthesize",),
    "survey": ("synthesize", "annotate"),
    "match": ("synthesize", "annotate", "extract:analysis"),
    "score": ("synthesize", "annotate", "extract:analysis", "match"),
    "track": ("synthesize", "annotate", "extract:tracking"),
}
"""What DVC runs before the target of a stage."""
EVERYTHING = ("synthesize", "annotate", "extract:analysis", "extract:tracking", "survey", "match", "score", "track")


def stages_of(commands: Sequence[str]) -> list[str]:
    """Name the stages that commands run, those before them included, in order: `extract:tracking`, `survey` ...

    Args:
        commands: `dvc repro TARGET ...` and `python -m difftrack.pipeline STAGE ...`, as a preset has them.
    """
    wanted: list[str] = []
    for command in commands:
        if found := re.match(r"python -m difftrack\.pipeline (\w+)", command):
            wanted.append(found[1])
        for target in re.findall(
            r"(?<= )(\w+)(?:@\S+)?(?= |$)", command.removeprefix("dvc repro") if "dvc" in command else ""
        ):
            wanted += _BEFORE.get(target, ())
            if target != "extract":
                wanted.append(target)
        for view in re.findall(r"extract@\S+-(analysis|tracking)", command):
            wanted.append(f"extract:{view}")
    order = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(dict.fromkeys(wanted), key=lambda stage: order[stage.partition(":")[0]])
