"""Compare matching on a CPU with the released method, with an earlier commit, and with what the processor can do.

    python -m benchmarks.matching_cpu db173e0 [--threads 2] [--repeats 3] [--frames 80]

One process runs, round by round, the released method re-stated (`benchmarks.matching`) and the rooms `correspondence`
and `tracking`, as they are in the commit and today. Seconds are CPU seconds, the least of all rounds, so that other
work on the machine counts little. Wall time and load are written, too; on an idle machine they show what two threads
are worth. The roofline is of one core: the best rate of matrix products at this project's shapes, by three libraries,
and what the products of a part would take at the best rate. Results go to
benchmarks/results/matching_cpu_<threads>_threads.json.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import matching
from benchmarks.matching import PARTS, RELEASED, SHAPES, Inputs, Shape, make_inputs
from difftrack import tracking
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.correspondence import MatchingParams, query_tokens
from difftrack.correspondence._scores import product
from difftrack.geometry import TokenGrid

ROOT = Path(__file__).parents[1]
ROOMS = ("correspondence", "tracking")
PRODUCTS = ((1350, 64, 1350), (256, 64, 1350), (1350, 64, 256), (1350, 64, 93), (1350, 64, 4), (1200, 1920, 1350))
"""Rows, channels and columns of products: whole frames, blocks of them, a few points, and features."""
CLIPS = {"17 frames of 160x240": (17, 20, 30, 8, 4, 9), "frames of 480x720": (None, 30, 45, 16, 30, 13)}
"""Number of frames, rows, columns, stride, heads, and frames of a chunk."""

Function = Callable[[], object]


@contextmanager
def rooms_of(commit: str) -> Iterator[Mapping[str, ModuleType]]:
    """Import two rooms of an earlier commit under another name, next to today's."""
    with tempfile.TemporaryDirectory() as folder:
        for room in ROOMS:
            paths = ["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", commit, f"difftrack/{room}"]
            for name in subprocess.run(paths, check=True, capture_output=True, text=True).stdout.split():
                show = ["git", "-C", str(ROOT), "show", f"{commit}:{name}"]
                text = subprocess.run(show, check=True, capture_output=True, text=True).stdout
                for own in ROOMS:
                    text = text.replace(f"difftrack.{own}", f"difftrack_before.{own}")
                file = Path(folder) / name.replace("difftrack/", "difftrack_before/", 1)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        (Path(folder) / "difftrack_before" / "__init__.py").touch()
        sys.path.insert(0, folder)
        try:
            yield {room: importlib.import_module(f"difftrack_before.{room}") for room in ROOMS}
        finally:
            sys.path.remove(folder)


def least(functions: Mapping[str, Function], repeats: int) -> dict[str, dict[str, float]]:
    """Run functions in turns; return the least CPU seconds and the least wall time of each."""
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            clock, worked = time.perf_counter(), time.process_time()
            function()
            rounds[name].append((time.process_time() - worked, time.perf_counter() - clock))
    return {
        name: {"cpu_s": min(cpu for cpu, _ in of), "wall_s": min(wall for _, wall in of)} for name, of in rounds.items()
    }


def rates() -> dict[str, Any]:
    """Gflop/s of products by three libraries, and 10^9 exponentials a second, each the best of many."""
    found: dict[str, Any] = {"product_gflops": {}, "exponential_g_per_s": {}}
    for shape in PRODUCTS:
        rows, channels, columns = shape
        first, second, out = torch.randn(rows, channels), torch.randn(columns, channels), torch.empty(rows, columns)
        ways: dict[str, Function] = {
            "torch": partial(torch.mm, first, second.T, out=out),
            "torch, fresh memory": lambda first=first, second=second: first @ second.T,
            "oneDNN, its own memory": partial(product, first, second),
            "numpy": partial(np.matmul, first.numpy(), second.numpy().T, out=out.numpy()),
        }
        flops = 2e-9 * rows * channels * columns
        times = max(1, round(0.2 / flops))
        best = least({name: partial(repeated, way, times) for name, way in ways.items()}, 8)
        found["product_gflops"]["x".join(map(str, shape))] = {
            name: round(flops * times / of["cpu_s"], 1) for name, of in best.items()
        }
    scores = torch.randn(256, 1350)
    array, out = scores.numpy(), torch.empty_like(scores)
    exponentials: dict[str, Function] = {
        "torch.exp2": partial(torch.exp2, scores, out=out),
        "torch.exp": partial(torch.exp, scores, out=out),
        "cv2.exp": partial(cv2.exp, array, out.numpy()),
        "numpy.exp": partial(np.exp, array, out=out.numpy()),
    }
    best = least({name: partial(repeated, way, 20) for name, way in exponentials.items()}, 8)
    found["exponential_g_per_s"] = {name: round(20e-9 * array.size / of["cpu_s"], 2) for name, of in best.items()}
    return found


def repeated(function: Function, times: int) -> None:
    """Call a function several times."""
    for _ in range(times):
        function()


def gflop(shape: Shape, params: MatchingParams, inputs: Inputs) -> dict[str, float]:
    """The products that every exact method needs: 2 flop for each of their numbers and channels."""
    num_tokens, pairs = shape.rows * shape.cols, shape.heads * (shape.frames - 1)
    points = matching.tokens_of(inputs, params)
    asked = len(query_tokens(points, rows=shape.rows, cols=shape.cols, params=params).tokens)
    own = num_tokens * shape.channels * 2e-9
    keys = shape.text + shape.frames * num_tokens
    return {
        "query_key": own * pairs * (asked + num_tokens),
        "feature": own * pairs * asked,
        "attention": 2e-9 * shape.channels * shape.heads * keys * shape.points,
    }


def parts(before: ModuleType, name: str, repeats: int) -> dict[str, Any]:
    """The three parts of one (layer, step) by the released method, the commit's and today's, many points and few."""
    shape = SHAPES[name]
    inputs = make_inputs(shape, "cpu", torch.float32)
    found: dict[str, Any] = {}
    for part, (ours, slow) in PARTS.items():
        functions: dict[str, Function] = {"released": partial(slow, inputs)}
        for points in (shape.points, 24, 1):
            asked = replace(inputs, points_xy_px=matching.grid_points(replace(shape, points=points)))
            functions[f"now, {points}"] = partial(ours, asked, RELEASED)
            functions[f"before, {points}"] = partial(with_rooms, before, ours, asked)
        found[part] = least(functions, repeats)
        print(part, json.dumps(found[part]), flush=True)
    found["gflop"] = gflop(shape, RELEASED, inputs)
    found["total_cpu_s"] = {way: sum(found[part][way]["cpu_s"] for part in PARTS) for way in found["query_key"]}
    return found


def with_rooms(before: ModuleType, ours: Callable[..., Tensor], inputs: Inputs) -> Tensor:
    """Run one of today's parts with the functions of an earlier commit."""
    names = ("attention_of_points", "match_features", "match_points")
    today = {name: getattr(matching, name) for name in names}
    try:
        for name in names:
            setattr(matching, name, getattr(before, name))
        return ours(inputs, before.MatchingParams.preset("released"))
    finally:
        for name, function in today.items():
            setattr(matching, name, function)


def clips(before: ModuleType, frames: int, repeats: int) -> dict[str, Any]:
    """Track 400 points through clips, from descriptors in memory."""
    found: dict[str, Any] = {}
    for name, (own_frames, rows, cols, stride, heads, length) in CLIPS.items():
        num_frames = own_frames or frames
        grid = TokenGrid(num_latent_frames=length, rows=rows, cols=cols, stride_px=stride, temporal_stride=1)
        generator = torch.Generator().manual_seed(0)
        pairs = [
            (own, torch.randn((2, heads, len(own), rows, cols, 64), generator=generator))
            for own in chunk_schedule(num_frames, ChunkParams(chunk_len=length))
        ]
        ways = {"before": partial(follow, before, grid, pairs), "now": partial(follow, tracking, grid, pairs)}
        label = name if own_frames else f"{num_frames} {name}"
        found[label] = least(ways, repeats)
        print(label, json.dumps(found[label]), flush=True)
    return found


def follow(room: ModuleType, grid: TokenGrid, pairs: Sequence[tuple[tuple[int, ...], Tensor]]) -> None:
    """Track 400 points by one layer with the functions of today or of an earlier commit."""
    xy = np.random.default_rng(400).uniform((0, 0), (grid.width, grid.height), (400, 2))
    chunks = [room.ChunkDescriptors(frames, partial(_read, pair)) for frames, pair in pairs]
    queries = np.insert(xy, 0, 0, axis=1).astype(np.float32)
    room.track_clip(chunks, queries, sources=[(49, 17)], grid=grid, params=room.TrackParams())


def _read(pair: Tensor, step: int, layer: int) -> tuple[Tensor, Tensor]:
    return pair[0], pair[1]


def cpu_flags() -> list[str]:
    """The processor's vector instructions, where the system says."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in flags if flag.startswith(("avx", "fma", "amx", "f16c"))]


def main() -> None:
    """Parse the command line, run, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="to compare with")
    parser.add_argument("--shape", choices=list(SHAPES), default="recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, default=80, help="of the clip of 480x720")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    result: dict[str, Any] = {"commit_before": arguments.commit, "shape": arguments.shape, "repeats": arguments.repeats}
    load = os.getloadavg()[0]
    result["rates"] = rates()
    print(json.dumps(result["rates"], indent=1), flush=True)
    versions = {"torch": torch.__version__, "numpy": np.__version__, "opencv": cv2.__version__}
    result["machine"] = matching.machine("cpu") | versions | {"python": platform.python_version(), "flags": cpu_flags()}
    path = matching.RESULTS / f"matching_cpu_{arguments.threads}_threads.json"
    with rooms_of(arguments.commit) as before:
        result["parts"] = parts(before["correspondence"], arguments.shape, arguments.repeats)
        path.write_text(json.dumps(result, indent=1) + "\n")
        result["clips"] = clips(before["tracking"], arguments.frames, max(1, arguments.repeats - 1))
    result["machine"]["load_before_and_after"] = [load, os.getloadavg()[0]]
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
