"""Stage: prompts + the best layers -> videos with and without cross-attention guidance, and their measures."""

import sys
from collections.abc import Mapping
from typing import Any

from difftrack.backbones import ModelParams, load_backbone
from difftrack.guidance import GuideParams, read_ranking, sample_prompts
from difftrack.keeping import Keeper
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, kept_folder, run, tell
from difftrack.prompts import read_prompts


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `prompts` and, with `layers: best`, `best_layers`; write the folder `samples`."""
    section = parse(GuideParams, params["guide"], "guide")
    model = parse(ModelParams, params["backbones"].get(section.backbone) or {}, f"backbones.{section.backbone}")
    prompts = read_prompts(deps["prompts"])
    ways = section.ways(read_ranking(deps["best_layers"]) if section.layers == "best" else None)
    size = (section.num_frames, section.height, section.width)
    backbone = load_backbone(section.backbone, model, size=size, works=["sample"])
    tell(backbone.remarks)
    keeper = Keeper(kept_folder(outs, "samples"), "samples", budget=section.keep_bytes)
    outcomes = sample_prompts(
        backbone,
        prompts,
        section,
        ways=ways,
        folder=outs["samples"],
        keeper=keeper,
        anew=params.get("force", False),
        drop_others=True,
    )
    watched = each(outcomes, "guide", names=[f"{number:03d}" for number, _ in prompts])
    failed = [outcome for outcome in watched if outcome.problem is not None]
    if failed:
        listed = "\n".join(f"  {outcome.number:03d} {outcome.prompt!r}: {outcome.problem}" for outcome in failed)
        sys.exit(f"guide: {len(failed)} of {len(prompts)} prompts failed\n{listed}")


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("guide", main, whole=True, resumes=True, borrows="copies")
