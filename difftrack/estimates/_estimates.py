"""Estimate the cost of every stage of a run from params."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from difftrack.documents import read_yaml
from difftrack.estimates._costs import Card, StageCost
from difftrack.estimates._planner import Planner
from difftrack.estimates._sequence import EVERYTHING, stages_of

__all__ = ["plan_stages"]


def plan_stages(
    params: Mapping[str, Any], *, root: Path, commands: Sequence[str] = (), card: Card | None = None
) -> list[StageCost]:
    """Estimate the cost of each stage from scratch.

    Args:
        params: All sections.
        root: Folder to which paths are relative.
        commands: Commands to run; the whole pipeline by default.
        card: Speeds of the GPU; None uses the measured defaults.

    Raises:
        ValueError: the number of clips is not known before they are read, or params cannot be used.
    """
    if commands:
        stages = stages_of(commands)
    else:
        others = ("guide", "report") if params.get("guide") else ("report",)
        surveyed = bool(params.get("survey", {}).get("backbones"))
        stages = [*(stage for stage in EVERYTHING if stage != "survey" or surveyed), *others]
    planner = Planner(params, root, card or Card(), _uncached(root))
    return [cost for stage in stages for cost in planner.costs(stage)]


def _uncached(root: Path) -> set[str]:
    """Return the keys of `paths` that DVC does not cache, according to dvc.yaml."""
    file = root / "dvc.yaml"
    if not file.is_file():
        return set()
    found = set()
    for stage in read_yaml(file)["stages"].values():
        for out in stage.get("outs", ()):
            if isinstance(out, Mapping):
                ((path, how),) = out.items()
                named = re.match(r"\$\{paths\.(\w+)\}", str(path))
                if named and how.get("cache") is False:
                    found.add(named[1])
    return found
