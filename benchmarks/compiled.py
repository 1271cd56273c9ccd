"""What `compile: true` gains at real size, and how far its numbers are from those without; random weights.

Usage: python -m benchmarks.compiled [NAME ...] [--tiny] [--backend eager]

Measured are one branch, two branches in a batch, and capture of all layers, each after two untimed calls; whether
further captures compile anything again; and the relative error (in the 2-norm) of output, queries and keys. Results go
to benchmarks/results/compiled.json after each backbone.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks.backbones_gpu import SETTINGS, STEP, TINY_SIZE, Run
from difftrack.backbones import LayerDescriptors, ModelParams, constructed_backbone
from difftrack.backbones._compiled import compile_blocks

RESULTS = Path(__file__).parent / "results" / "compiled.json"


def _run(name: str, *, tiny: bool, compiled: bool, device: str) -> Run:
    backbone = constructed_backbone(name, ModelParams(device=device, dtype="bfloat16", compile=compiled), small=tiny)
    grid = backbone.token_grid(*(TINY_SIZE if tiny else SETTINGS[name].size))
    patch, fold = backbone.patch_size, backbone.latents_per_token_frame
    latents = backbone.placeholder_latents(grid.num_latent_frames * fold, grid.rows * patch, grid.cols * patch)
    return Run(backbone, grid, backbone.schedule(50, grid=grid), latents, backbone.placeholder_prompt(), None)


def _ways(run: Run, *, batched: bool) -> dict[str, Callable[[], Any]]:
    layers = range(run.backbone.num_layers)
    return {
        "one branch": run.one_branch,
        "two branches": lambda: run.two_branches(batched=batched),
        "capture of all layers": lambda: run.captured(lambda record: None, *layers),
    }


def _timed(do: Callable[[], Any], *, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        do()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _found(run: Run) -> dict[str, Tensor]:
    """Output, and queries and keys of the first, middle and last layer."""
    last = run.backbone.num_layers - 1
    found = {"output": run.backbone.predict(run.latents, run.schedule.timesteps[STEP], run.prompt)}

    def keep(record: LayerDescriptors) -> None:
        found.update({f"{kind} {record.layer}": getattr(record, kind).clone() for kind in ("query", "key")})

    run.captured(keep, *sorted({0, last // 2, last}))
    return found


def measure(name: str, *, tiny: bool, device: str, repeats: int) -> dict[str, Any]:
    """Measure one backbone, compiled and not."""
    result: dict[str, Any] = {}
    plain: dict[str, Tensor] = {}
    for compiled in (False, True):
        counters.clear()
        run = _run(name, tiny=tiny, compiled=compiled, device=device)
        costs, first = {}, {}
        for way, do in _ways(run, batched=SETTINGS[name].batched).items():
            first[way] = round(_timed(do, repeats=1), 2)
            do()
            costs[way] = _timed(do, repeats=repeats)
        kind = "compiled" if compiled else "plain"
        result[kind] = {"seconds": costs, "first_call_s": first}
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        found = _found(run)
        if torch.cuda.is_available():
            result[kind]["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        if compiled:
            graphs = counters["stats"]["unique_graphs"]
            for _ in range(3):
                run.captured(lambda record: None, 0, 1)
            result |= {
                "graphs": graphs,
                "graphs_after_more_captures": counters["stats"]["unique_graphs"],
                "graph_breaks": sum(counters["graph_break"].values()),
                "relative_error": {
                    what: float((found[what].float() - value.float()).norm() / value.float().norm())
                    for what, value in plain.items()
                },
            }
        else:
            plain = found
        del run
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write after each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=("cogvideox-2b",), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--tiny", action="store_true", help="small versions, on any device")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; eager needs no compiler")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.tiny:
        parser.error("real sizes need a GPU; --tiny runs anywhere")
    report: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "dtype": "bfloat16",
        "tiny": given.tiny,
        "backend": given.backend,
        "versions": {package.__name__: package.__version__ for package in (torch, diffusers, transformers)},
        "results": {},
    }
    chosen = partial(compile_blocks, backend=given.backend)
    with mock.patch("difftrack.backbones._architecture.compile_blocks", chosen):
        for name in given.names:
            report["results"][name] = measure(name, tiny=given.tiny, device=device, repeats=given.repeats)
            given.out.write_text(json.dumps(report, indent=1) + "\n")
            print(name, json.dumps(report["results"][name], indent=1), flush=True)


if __name__ == "__main__":
    main()
