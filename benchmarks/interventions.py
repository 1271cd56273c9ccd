"""What each intervention costs over a plain forward, at the real shape of backbones, with random weights.

    python -m benchmarks.interventions --size real            # CogVideoX-2B and Wan2.1-1.3B, on one GPU in bfloat16
    python -m benchmarks.interventions --size tiny            # small versions, on any device

A forward has one branch. Every way runs in turns with the plain one, so that a change of clock affects all of them.
Each intervention's name says where it acts; `OwnFrame` also acts in three layers, as guidance uses it. `guided` is a
step of guidance that perturbs three layers (a second forward from the first of them), over a plain one. Nothing is
downloaded. Results are printed and go to benchmarks/results/interventions_<device>.json; with --size tiny they are only
printed, because they say nothing about speed.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from difftrack.backbones import Backbone, ModelParams, constructed_backbone
from difftrack.guidance import Guidance, guided
from difftrack.interventions import (
    Freeze,
    Identity,
    Intervention,
    Mean,
    OwnFrame,
    Patch,
    Recording,
    Scale,
    SkipLayer,
    Swap,
    Zero,
    intervening,
)

RESULTS = Path(__file__).parent / "results"
SIZES = {"cogvideox-2b": (49, 480, 720), "wan2.1-1.3b": (81, 480, 832)}
TINY_SIZE = (9, 96, 160)
MOST = 1.02
"""The target for the cost of an intervention without a second forward."""


def ways_of(backbone: Backbone, forward: Callable[[], Tensor], grid: Any) -> dict[str, list[Intervention]]:  # noqa: ANN401
    """Interventions by name; what is patched is recorded from a forward first, for one head and for three layers."""
    middle = backbone.num_layers // 2
    three = tuple(range(middle - 1, middle + 2))
    of_head, of_layers = Recording(heads=0), Recording(layers=three)
    with intervening(backbone, [of_head, of_layers], grid=grid, calls="cond"):
        forward()
    return {
        "nothing matches": [Zero(steps=999)],
        "Zero, one head of each layer": [Zero(heads=0)],
        "Zero, all heads of one layer": [Zero(layers=middle)],
        "Zero, all heads of all layers": [Zero()],
        "Zero of keys, one head of each layer": [Zero(heads=0, target="key")],
        "Scale, one head of each layer": [Scale(factor=0.5, heads=0)],
        "Mean, one head of each layer": [Mean(heads=0)],
        "Swap, two heads of each layer": [Swap(heads=(0, 1))],
        "Freeze, one head of each layer": [Freeze(heads=0)],
        "Recording, one head of each layer": [Recording(heads=0)],
        "Patch, one head of each layer": [Patch(source=of_head)],
        "Patch, three layers": [Patch(source=of_layers)],
        "OwnFrame masked, one head of each layer": [OwnFrame(heads=0, variant="masked")],
        "OwnFrame zeroed, one head of each layer": [OwnFrame(heads=0)],
        "OwnFrame masked, three layers": [OwnFrame(layers=three, variant="masked")],
        "OwnFrame zeroed, three layers": [OwnFrame(layers=three)],
        "Identity, three layers": [Identity(layers=three)],
        "SkipLayer, one layer": [SkipLayer(layers=middle)],
    }


def guidances_of(backbone: Backbone) -> dict[str, Guidance]:
    """Ways of guidance in three layers in the middle."""
    middle = backbone.num_layers // 2
    layers = tuple(range(middle - 1, middle + 2))
    return {
        "guided, zeroed (CAG)": Guidance(layers=layers),
        "guided, masked": Guidance(layers=layers, variant="masked"),
        "guided, identity (PAG)": Guidance(layers=layers, variant="identity"),
        "guided, skip (STG)": Guidance(layers=layers, variant="skip"),
    }


def measure(name: str, size: Sequence[int], *, tiny: bool, device: str, repeats: int) -> dict[str, Any]:
    """Measure all ways of one backbone, in turns with the plain one."""
    backbone = constructed_backbone(name, ModelParams(device=device, dtype="bfloat16"), small=tiny)
    grid = backbone.token_grid(*size)
    patch, fold = backbone.patch_size, backbone.latents_per_token_frame
    latents = backbone.placeholder_latents(grid.num_latent_frames * fold, grid.rows * patch, grid.cols * patch)
    schedule, prompt = backbone.schedule(50, grid=grid), backbone.placeholder_prompt()
    conditioning = backbone.placeholder_conditioning(latents)

    def forward() -> Tensor:
        return backbone.predict(latents, schedule.timesteps[20], prompt, conditioning=conditioning)

    contexts: dict[str, Callable[[], Any]] = {
        way: lambda chosen=chosen: intervening(backbone, chosen, grid=grid, calls="cond")  # type: ignore[misc]
        for way, chosen in ways_of(backbone, forward, grid).items()
    }
    contexts |= {
        way: lambda guidance=guidance: guided(backbone, guidance, grid=grid, calls="cond")  # type: ignore[misc]
        for way, guidance in guidances_of(backbone).items()
    }
    plain = forward()
    with contexts["nothing matches"]():
        same = torch.equal(forward(), plain)
    rows: dict[str, Any] = {}
    for way, context in contexts.items():
        seconds: dict[str, list[float]] = {"plain": [], "way": []}
        peak = 0.0
        for turn in range(repeats + 1):
            for kind in ("plain", "way"):
                with nullcontext() if kind == "plain" else context():
                    forward()  # what a context does once is not part of a step
                    _wait(device)
                    if device == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    started = time.perf_counter()
                    forward()
                    _wait(device)
                    took = time.perf_counter() - started
                if turn:
                    seconds[kind].append(took)
                if kind == "way" and device == "cuda":
                    peak = torch.cuda.max_memory_allocated() / 1e9
        ratios = [ours / theirs for ours, theirs in zip(seconds["way"], seconds["plain"], strict=True)]
        rows[way] = {
            "times_plain": statistics.median(ratios),
            "seconds": statistics.median(seconds["way"]),
            "plain_seconds": statistics.median(seconds["plain"]),
            "peak_gb": peak,
            "within_aim": way.startswith("guided") or statistics.median(ratios) <= MOST,
        }
        print(f"{name:14} {way:42} {rows[way]['times_plain']:.3f} x")
    tokens = [grid.num_latent_frames, grid.rows, grid.cols]
    counts = [backbone.num_layers, backbone.num_heads, backbone.num_channels]
    return {"size": list(size), "tokens": tokens, "counts": counts, "nothing_is_bit_equal": same, "ways": rows}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--size", choices=["real", "tiny"], default="tiny")
    parser.add_argument("--repeats", type=int, default=5, help="timed forwards of each way, after one untimed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    tiny, device = given.size == "tiny", "cuda" if torch.cuda.is_available() else "cpu"
    found = {
        name: measure(
            name, TINY_SIZE if tiny else SIZES[name], tiny=tiny, device=device, repeats=1 if tiny else given.repeats
        )
        for name in given.names
    }
    if tiny:
        return
    about = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / f"interventions_{device}.json"
    file.write_text(json.dumps({**about, "backbones": found}, indent=1) + "\n")
    print(file)


if __name__ == "__main__":
    main()
