"""Peaks of memory by stage and switch at real sizes, with random weights, and whether the choice of `auto` fits.

Usage: python -m benchmarks.memory [NAME ...] [--tiny]

For each backbone and each set of switches this does once what the stages do: embed a prompt, encode a clip whole
(`extract analysis`) and its frames alone (`extract tracking`), capture three layers of a step, sample a step of two
branches and decode (`synthesize`), sample a guided step (`guide`). Then it does the same with the switches that
`memory: auto` takes under a cap of 24, 48 and 80 GB (`torch.cuda.set_per_process_memory_fraction`), minus CUDA's own
memory and the reserve that the choice leaves free. Peaks are of allocated bytes, with weights and without CUDA's own
0.5 GB.

`--tiny` runs small versions on any device. Results go to benchmarks/results/memory.json after each set; `--table`
prints the tables of docs/scale.md from there.
"""

import argparse
import datetime
import gc
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers

from benchmarks._random_pipeline import MODELS, random_backbone, weights_of
from difftrack.backbones import KNOWN, Backbone, ModelParams, need_of
from difftrack.backbones._memory import CONTEXT_BYTES, SWITCHES, USABLE, Work
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.guidance import Guidance, guided
from difftrack.interventions import calls_at

RESULTS = Path(__file__).parent / "results" / "memory.json"
SETS: tuple[tuple[str, ...], ...] = ((), ("vae_slicing",), ("vae_tiling",), ("release_text_encoder",), ("cpu_offload",))
CARDS_GB = (24, 48, 80)
STEPS, STEP, CFG_SCALE = 50, 40, 6.0
TINY_SIZE = (9, 96, 160)
SIZES = {"hunyuan-video": (49, 480, 720)}
"""Sizes that differ from those that the backbone is made for."""
STAGES: Mapping[str, tuple[str, ...]] = {
    "extract analysis": ("embed", "encode", "capture"),
    "extract tracking": ("embed", "encode frames", "capture"),
    "synthesize": ("embed", "sample", "decode"),
    "guide": ("embed", "guide", "decode"),
}
"""What each stage does; the stage's peak is the largest of these."""

WORKS: Mapping[str, Work] = {
    "extract analysis": "encode",
    "extract tracking": "encode_frames",
    "synthesize": "sample",
    "guide": "sample",
}


class _StepDone(Exception):
    """Ends sampling before the decoder."""


class Meter:
    """Seconds and peaks of one thing after another."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float | str]] = {}
        self._on_gpu = torch.cuda.is_available()
        self._started = 0.0

    def start(self) -> None:
        """Begin to count."""
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    def stop(self, name: str) -> None:
        """Record seconds and peak since `start` under a name, and begin again."""
        if self._on_gpu:
            torch.cuda.synchronize()
        took = time.perf_counter() - self._started
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else 0
        self.found[name] = {"seconds": round(took, 2), "peak_gb": round(peak / 1e9, 2)}
        self.start()

    def run(self, name: str, do: Callable[[], object]) -> Any:  # noqa: ANN401
        """Count one thing; record None if memory runs out."""
        self.start()
        try:
            result = do()
        except torch.OutOfMemoryError as error:
            self.found[name] = {"out_of_memory": " ".join(str(error).split())[:120]}
            return None
        if name not in self.found:
            self.stop(name)
        return result


def measure(
    backbone: Backbone, size: tuple[int, int, int], *, layers: Sequence[int], parts: Collection[str]
) -> dict[str, Any]:
    """Peaks of what stages do with one backbone, for the given parts."""
    num_frames, height, width = size
    meter = Meter()
    prompt = meter.run("embed", lambda: backbone.embed("a prompt"))
    if prompt is None:
        return meter.found
    for component in ("transformer", "vae"):
        backbone.components[component]
    clip = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    grid = backbone.token_grid(*size)
    frames = clip[: backbone.native_token_frames]
    if "encode frames" in parts:
        meter.run("encode frames", lambda: backbone.encode(frames, frames_alone=True))
    if "encode" in parts:
        meter.run("encode", lambda: backbone.encode(clip, frames_alone=False))
    patch, fold = backbone.patch_size, backbone.latents_per_token_frame
    latents = backbone.placeholder_latents(grid.num_latent_frames * fold, grid.rows * patch, grid.cols * patch)
    schedule = backbone.schedule(STEPS, grid=grid)
    meter.run(
        "capture",
        lambda: backbone.capture_into(lambda record: None, latents, STEP, schedule, prompt, layers=layers),
    )
    sample = {
        "seed": 0,
        "num_inference_steps": 1,
        "cfg_scale": CFG_SCALE,
        "num_frames": num_frames,
        "height": height,
        "width": width,
    }
    if "decode" not in parts:
        return meter.found
    with _at_each_step(lambda: meter.stop("sample")):
        meter.run("decode", lambda: backbone.generate("a prompt", **sample))
    with _at_each_step(lambda: meter.stop("guide"), then=_StepDone):
        meter.run("guide", lambda: _guided_step(backbone, sample, layers, grid))
    return meter.found


def _guided_step(backbone: Backbone, sample: Mapping[str, Any], layers: Sequence[int], grid: Any) -> None:  # noqa: ANN401
    guidance = Guidance(layers=tuple(layers), scale=1.0)
    try:
        with guided(backbone, guidance, grid=grid, calls=calls_at(CFG_SCALE)):
            backbone.generate("a prompt", **sample)
    except _StepDone:
        pass


@contextmanager
def _at_each_step(do: Callable[[], None], *, then: type[Exception] | None = None) -> Iterator[None]:
    """Call a function after every step of sampling."""
    recorded = TrajectoryRecorder.__call__

    def record(self: TrajectoryRecorder, *args: Any, **choices: Any) -> Any:  # noqa: ANN401
        result = recorded(self, *args, **choices)
        do()
        if then is not None:
            raise then
        return result

    with mock.patch.object(TrajectoryRecorder, "__call__", record):
        yield


def by_stage(found: Mapping[str, Any], stages: Sequence[str]) -> dict[str, float | None]:
    """The peak of each of these stages in GB; None if memory runs out on the way."""
    return {
        stage: max(found[part]["peak_gb"] for part in STAGES[stage])
        if all("peak_gb" in found.get(part, {}) for part in STAGES[stage])
        else None
        for stage in stages
    }


def _size(name: str, *, tiny: bool) -> tuple[int, int, int]:
    """(frames, height, width) that the paper used, or that the backbone is made for."""
    return TINY_SIZE if tiny else SIZES.get(name, KNOWN[name].size)


def _auto(name: str, card_gb: int, *, tiny: bool) -> dict[tuple[str, ...], list[str]]:
    """Run the stages with the switches that `memory: auto` takes for them."""
    backbone = random_backbone(name, ModelParams(device="meta", dtype="bfloat16"), tiny=tiny)
    need = need_of(backbone, weights_of(backbone), _size(name, tiny=tiny))
    chosen: dict[tuple[str, ...], list[str]] = {}
    for stage, work in WORKS.items():
        switches = need.switches_for(card_gb * 10**9, [work])
        chosen.setdefault(SWITCHES[-1] if switches is None else switches, []).append(stage)
    return chosen


def _run(
    name: str, switches: Sequence[str], card_gb: int | None, stages: Sequence[str], *, tiny: bool
) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = _size(name, tiny=tiny)
    params = replace(ModelParams(device=device, dtype="bfloat16"), **dict.fromkeys(switches, True))
    cap = None if card_gb is None else USABLE * card_gb * 1e9 - CONTEXT_BYTES
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            1.0 if cap is None else cap / torch.cuda.get_device_properties(0).total_memory
        )
    started = time.perf_counter()
    backbone = random_backbone(name, params, tiny=tiny)
    layers = (0, 1, 2) if tiny else (13, 17, 21)
    found = measure(backbone, size, layers=layers, parts={part for stage in stages for part in STAGES[stage]})
    del backbone
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return {
        "model": name,
        "size": size,
        "switches": list(switches),
        "card_gb": card_gb,
        "stages": by_stage(found, stages),
        "parts": found,
        "seconds": round(time.perf_counter() - started, 1),
    }


def tables(report: Mapping[str, Any]) -> Iterator[str]:
    """The tables of docs/scale.md."""
    yield f"| backbone | switches | cap | {' | '.join(STAGES)} |"
    yield f"| --- | --- | --- |{' ---: |' * len(STAGES)}"
    for run in report["runs"]:
        peaks = (run["stages"].get(stage, "") for stage in STAGES)
        cells = ["does not fit" if peak is None else f"{peak:.1f}" if peak else "" for peak in peaks]
        cap = "none" if run["card_gb"] is None else f"{run['card_gb']} GB"
        switches = " and ".join(f"`{switch}`" for switch in run["switches"]) or "none"
        yield f"| {run['model']} | {switches} | {cap} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write after each set, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=MODELS[:3], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--tiny", action="store_true", help="small versions, on any device")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    parser.add_argument("--cards", type=int, nargs="*", default=CARDS_GB, help="GB of the caps")
    parser.add_argument("--sets", nargs="*", help="switches joined by +, `none` for none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if given.table:
        print("\n".join(tables(json.loads(given.out.read_text()))))
        return
    if torch.cuda.is_available() is False and not given.tiny:
        parser.error("real sizes need a GPU; --tiny runs anywhere")
    sets = SETS if given.sets is None else [tuple(() if each == "none" else each.split("+")) for each in given.sets]
    if not torch.cuda.is_available():
        sets = [each for each in sets if "cpu_offload" not in each]
    report: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "dtype": "bfloat16",
        "tiny": given.tiny,
        "versions": {package.__name__: package.__version__ for package in (torch, diffusers, transformers)},
        "runs": [],
    }
    for name in given.names:
        plans: list[tuple[Sequence[str], int | None, Sequence[str]]] = [(each, None, list(STAGES)) for each in sets]
        for card in given.cards:
            for chosen, stages in _auto(name, card, tiny=given.tiny).items():
                if torch.cuda.is_available() or "cpu_offload" not in chosen:
                    plans.append((chosen, card, stages))
        for switches, card, stages in plans:
            run = _run(name, switches, card, stages, tiny=given.tiny)
            report["runs"].append(run)
            given.out.write_text(json.dumps(report, indent=1) + "\n")
            print(name, "+".join(switches) or "none", f"cap {card}", run["stages"], f"{run['seconds']} s", flush=True)
    print("\n".join(tables(report)))


if __name__ == "__main__":
    main()
