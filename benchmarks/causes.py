"""What each head of the shipped backbone causes: a grid small enough for a CPU, and the whole one for a card.

    python -m benchmarks.causes [--plan]           for one core: all heads zeroed, small clips, three prompts
    python -m benchmarks.causes --whole [--plan]   for a card: more ways, full size, all prompts, four seeds

Both run `difftrack ablate` with the choices below. Cells are in data/ablation, or data/ablation-whole, one file each. A
run that was stopped continues, here or on a machine to which that folder was copied (`--reuse params` accepts cells
that other versions made; the summary then names all versions). The summary, its table and figures go to
benchmarks/results/ablation, or ablation_whole. The report shows the results of the small grid wherever it shows the
shipped backbone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.matching import machine
from difftrack.artifacts import write_text
from difftrack.backbones import Backbone, ModelParams, load_backbone
from difftrack.prompts import read_prompts
from difftrack.reports import draw_causes
from difftrack.workflows.ablate import MARKER, AblateParams, ablate, plan_ablation
from difftrack.workflows.ablation_summary import summarize
from difftrack.workflows.probe import rendered_clips

RESULTS = Path(__file__).parent / "results"
PROMPTS = Path(__file__).parent / "ablation_prompts.txt"
CELLS = Path("data") / "ablation"
FEW_PROMPTS = 3
"""Number of prompts of the file that the small grid uses."""
LAYERS = (4, 6)
"""Two best layers of the shipped backbone, which guidance perturbs."""
GUIDANCES = (("zeroed", 0.2, LAYERS), ("identity", 0.2, LAYERS), ("skip", 0.2, LAYERS))
SMALL: dict[str, Any] = {
    "interventions": ("zero",),
    "guidances": GUIDANCES,
    "seeds": (42,),
    "num_inference_steps": 6,
    "cfg_scale": 4.0,
    "num_frames": 9,
    "height": 64,
    "width": 96,
}
WHOLE: dict[str, Any] = {
    "interventions": ("zero", "mean", "own_frame", "skip"),
    "guidances": GUIDANCES,
    "seeds": (42, 43, 44, 45),
    "num_inference_steps": 20,
    "cfg_scale": 4.0,
    "matching_clips": 16,
}


def main() -> None:
    """Make the missing cells, and summarize all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="the grid for a card")
    parser.add_argument("--plan", action="store_true", help="say what there is to do, and leave")
    parser.add_argument("--reuse", choices=["exact", "params"], default="exact", help="which cells are taken up")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    backbone = load_backbone("cogvideox-mini", ModelParams(device=given.device))
    params = AblateParams(**(WHOLE if given.whole else SMALL), reuse=given.reuse)
    folder = CELLS.with_name("ablation-whole") if given.whole else CELLS
    results = RESULTS / ("ablation_whole" if given.whole else "ablation")
    prompts = read_prompts(PROMPTS)[: None if given.whole else FEW_PROMPTS]
    waiting = plan_ablation(backbone, prompts, params, folder).waiting
    print(f"{len(waiting)} cells to do, {sum(cell.num_forwards for cell in waiting)} forwards of one branch")
    if given.plan:
        return
    for _ in track(ablate(backbone, prompts, params, folder), "cells", total=len(waiting)):
        pass
    summary = summarize(backbone, prompts, params, folder) | {"still_accuracy": still_accuracy(backbone, params)}
    write_results(summary, folder, results, device=str(backbone.device))


def still_accuracy(backbone: Backbone, params: AblateParams) -> float:
    """Compute the matching accuracy of a head that looks at the same token in all later latent frames.

    Returns:
        Share of visible points within one token of the truth, averaged over the clips that the study matches.
    """
    grid = backbone.token_grid(params.num_frames, params.height, params.width)
    later = [max(0, grid.first_frames - 1) // 2 + k * grid.temporal_stride for k in range(1, grid.num_latent_frames)]
    size = {"num_frames": params.num_frames, "height": params.height, "width": params.width}
    shares = []
    for video in rendered_clips(params.matching_clips, **size):
        tracks, stride_px = video.tracks, grid.stride_px
        centres = (np.floor(tracks.query_points[:, 1:] / stride_px) + 0.5) * stride_px
        distance_px = np.linalg.norm(tracks.points_xy_px[later] - centres, axis=-1)
        shares.append((distance_px <= stride_px)[tracks.visible[later]].mean())
    return float(np.mean(shares))


def write_results(summary: dict[str, Any], folder: Path, results: Path, *, device: str) -> None:
    """Write the summary with the machine and the date, a line for each way and pair, its table and figures.

    Args:
        summary: Of the grid.
        folder: Of the grid, which holds the table.
        results: Receives the files.
        device: The samples were made on.
    """
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / MARKER, compact({**summary, "machine": machine(device)}))
    write_text(results / "ablation.csv", (folder / "ablation.csv").read_text(encoding="utf-8"))
    for file in draw_causes(summary, results):
        print(file)


def compact(summary: dict[str, Any]) -> str:
    """Write JSON with a line for each way and each pair: it comes with the package, and git compares lines."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in summary["ways"])
    pairs = ",\n".join(f"  {json.dumps(way)}: {json.dumps(found)}" for way, found in summary["pairs"].items())
    rest = {name: value for name, value in summary.items() if name not in ("ways", "pairs")}
    head = json.dumps(rest, indent=1).removesuffix("\n}")
    return f'{head},\n "ways": [\n{rows}\n ],\n "pairs": {{\n{pairs}\n }}\n}}\n'


if __name__ == "__main__":
    main()
