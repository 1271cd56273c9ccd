"""What every stage of a run takes, from params alone."""

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
    """Say what each stage takes from nothing.

    Args:
        params: All sections.
        root: Folder that paths start from.
        commands: What is to run; all of the pipeline by default.
        card: The rates to expect.

    Raises:
        ValueError: how many clips there will be cannot be told before they are read, or params cannot be used.
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
    """Kinds of `paths` of which DVC keeps no copy, by the dvc.yaml there."""
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
