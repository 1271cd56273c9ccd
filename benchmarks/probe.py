"""What the training probe shows of the shipped backbone, trained and untrained, and what a measurement costs.

    python -m benchmarks.probe [--clips 4] [--repeats 2]

The untrained one has the same architecture with random weights (`--seed`), as at the start of a training. Clips, noise
level and measures are the defaults of `dt.probe`. A measurement is timed in CPU seconds of this process, after an
untimed one; `making` renders and encodes the clips, which a training does once. Results go to
benchmarks/results/probe.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel

from benchmarks.matching import machine
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone, wrap_pipeline
from difftrack.metrics import combine_clips
from difftrack.workflows.probe import EmergenceProbe, ProbeParams, rendered_clips

RESULTS = Path(__file__).parent / "results"
EVERY = 500
"""Number of training steps between two measurements, one second each."""
MEASURES = ("matching_accuracy", "confidence", "attention_score", "head_matching_accuracy")


def main() -> None:
    """Measure both, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=3, default=(17, 128, 192), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=2, help="timed measurements")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    trained = load_backbone("cogvideox-mini", ModelParams(device="cpu"))
    found: dict[str, Any] = {}
    costs: dict[str, float] = {}
    for name, backbone in {"trained": trained, "start": at_start(given.seed)}.items():
        started = time.process_time()
        frames, height, width = given.size
        clips = rendered_clips(given.clips, num_frames=frames, height=height, width=width)
        probe = EmergenceProbe(backbone, clips, ProbeParams())
        making = time.process_time() - started
        means = combine_clips(probe.measure())
        found[name] = {measure: numbers(means[measure]) for measure in MEASURES}
        if name == "trained":
            seconds = [timed(probe) for _ in range(given.repeats)]
            costs = {"making": making, "measurement": statistics.median(seconds)}
    costs["share_at_one_step_a_second"] = costs["measurement"] / EVERY
    rows = zip(found["start"]["matching_accuracy"], found["trained"]["matching_accuracy"], strict=True)
    for layer, (before, after) in enumerate(rows):
        print(f"layer {layer}: {100 * before:.1f} % at the start, {100 * after:.1f} % trained")
    print(costs)
    about = {"machine": machine("cpu"), "backbone": trained.fingerprint, "clips": given.clips, "size": given.size}
    about |= {"every": EVERY, "step": ProbeParams().steps[0], "seed": given.seed}
    given.results.mkdir(parents=True, exist_ok=True)
    content = {**about, "cpu_seconds": costs, "layers": found}
    (given.results / "probe.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def at_start(seed: int) -> Backbone:
    """Return the shipped backbone with random weights in its transformer."""
    torch.manual_seed(seed)
    pipeline = CogVideoXPipeline.from_pretrained(shipped_backbone(), dtype=torch.float32)
    pipeline.transformer = CogVideoXTransformer3DModel.from_config(pipeline.transformer.config)
    return wrap_pipeline(pipeline)


def timed(probe: EmergenceProbe) -> float:
    """Return the CPU seconds of one measurement."""
    started = time.process_time()
    probe.measure()
    return time.process_time() - started


def numbers(scores: xr.DataArray) -> list[Any]:
    """Return the values at the only step: [layer], or [layer, head]."""
    axes = [axis for axis in ("layer", "head") if axis in scores.dims]
    values: list[Any] = scores.isel(step=0).transpose(*axes).values.tolist()
    return values


if __name__ == "__main__":
    main()
