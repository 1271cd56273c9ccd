"""Time one (layer, step) of the analysis: query-key matching, feature matching and attention rows.

The released method is re-stated plainly and runs in the same process on the same inputs and threads: whole score
tensors, scores divided instead of queries, one latent frame after the other, probabilities in the inputs' type, a
second softmax and a maximum across the rows of memory, index grids built again for every frame.

On a CPU, seconds are CPU seconds, because other work would add to wall time. On a GPU all three parts together are what
`ClipMatcher` does in the `match` stage: it replays a recording of them and copies the results to the host. The results
also say what they take when every kernel is launched again and, on a Hopper GPU, with the kernels for any GPU. They go
to benchmarks/results/matching_<shape>_<device>.json.

    python -m benchmarks.matching --shape recipe --threads 1
    python -m benchmarks.matching --shape all --device cuda
    python -m benchmarks.matching --scaling
    python -m benchmarks.matching --tune --device cuda
"""

import argparse
import ctypes
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from difftrack.correspondence import (
    ClipMatcher,
    MatchingParams,
    MatchSection,
    attention_of_points,
    attention_rows,
    latent_to_frames,
    match_features,
    match_points,
    points_to_tokens,
    tokens_to_points,
)

RESULTS = Path(__file__).parent / "results"
FIXTURES = Path(os.environ.get("DIFFTRACK_FIXTURES", Path(__file__).parents[2] / "shared" / "golden"))
STRIDE_PX = 16
RELEASED = MatchingParams.preset("released")


@dataclass(frozen=True)
class Shape:
    """One layer of a backbone at one video size."""

    heads: int
    channels: int
    text: int
    frames: int
    rows: int
    cols: int
    points: int = 400

    @property
    def grid(self) -> tuple[int, int, int]:
        """Number of latent frames, rows and columns."""
        return self.frames, self.rows, self.cols


SHAPES = {
    "recipe": Shape(heads=30, channels=64, text=226, frames=13, rows=30, cols=45),
    "cogvideox-5b": Shape(heads=48, channels=64, text=226, frames=13, rows=30, cols=45),
    "hunyuanvideo": Shape(heads=24, channels=128, text=256, frames=13, rows=30, cols=45),
    "wan-81x480x832": Shape(heads=40, channels=128, text=0, frames=21, rows=30, cols=52),
    "small": Shape(heads=4, channels=64, text=32, frames=5, rows=16, cols=24),
}


@dataclass(frozen=True)
class Inputs:
    """What a backbone leaves in one layer, [head, latent_frame, row, col, channel], and the query points."""

    query: Tensor
    key: Tensor
    feature: Tensor
    text_key: Tensor
    points_xy_px: Tensor


def make_inputs(shape: Shape, device: str, dtype: torch.dtype) -> Inputs:
    """Draw normal numbers: the recipe's own (seed, order, layout) for its shape, else any, on the device.

    Of a recipe's batch of two the second half is used. Tokens lie as a backbone leaves them, all heads of one together.
    """
    num_tokens = shape.text + shape.frames * shape.rows * shape.cols
    recipe = shape == SHAPES["recipe"]
    numpy_generator = np.random.Generator(np.random.PCG64(20250601))
    generator = torch.Generator(device).manual_seed(20250601)

    def draw() -> Tensor:
        size = (num_tokens, shape.heads * shape.channels)
        if recipe:
            numpy_generator.standard_normal(size, dtype=np.float32)
            tokens = torch.from_numpy(numpy_generator.standard_normal(size, dtype=np.float32)).to(device, dtype)
        else:
            tokens = torch.randn(size, generator=generator, device=device, dtype=dtype)
        return tokens.reshape(num_tokens, shape.heads, shape.channels).transpose(0, 1)

    def video(tokens: Tensor) -> Tensor:
        return tokens[:, shape.text :].reshape(shape.heads, *shape.grid, shape.channels)

    query, key, value = draw(), draw(), draw()
    return Inputs(video(query), video(key), video(value), key[:, : shape.text], grid_points(shape))


def grid_points(shape: Shape) -> Tensor:
    """Place points like the released query grid, a 64th of the width inside; for other counts, at random."""
    height, width = shape.rows * STRIDE_PX, shape.cols * STRIDE_PX
    side = round(shape.points**0.5)
    if side * side != shape.points:
        random = torch.rand(shape.points, 2, generator=torch.Generator().manual_seed(0))
        return random * torch.tensor([width, height])
    margin = width / 64
    y, x = (torch.linspace(margin, size - margin, side) for size in (height, width))
    return torch.stack([x.repeat(side), y.repeat_interleave(side)], dim=-1)


def ours_query_key(inputs: Inputs, params: MatchingParams) -> Tensor:
    """Match by query and key; px per video frame."""
    matches = match_points(inputs.query, inputs.key, tokens_of(inputs, params), params=params)
    return to_frames(matches.points_xy_token, params)


def ours_feature(inputs: Inputs, params: MatchingParams) -> Tensor:
    """Match by features; px per video frame."""
    return to_frames(match_features(inputs.feature, tokens_of(inputs, params), params=params).points_xy_token, params)


def ours_attention(inputs: Inputs, params: MatchingParams) -> Tensor:
    """Reduce the attention of the points to what the scores need."""
    mask = torch.ones(inputs.text_key.shape[1], dtype=torch.bool, device=inputs.text_key.device)
    points = tokens_of(inputs, params)
    return attention_of_points(inputs.query, inputs.key, inputs.text_key, mask, points, params=params).frame_mass


def tokens_of(inputs: Inputs, params: MatchingParams) -> Tensor:
    """Query points in token coordinates; a few hundred numbers, left on the CPU."""
    return points_to_tokens(inputs.points_xy_px, stride_px=STRIDE_PX, params=params)


def to_frames(points_xy_token: Tensor, params: MatchingParams) -> Tensor:
    """Convert positions to pixels per video frame."""
    points = tokens_to_points(points_xy_token, stride_px=STRIDE_PX, params=params)
    num_frames = 1 + 4 * (len(points_xy_token) - 1)
    return latent_to_frames(points, num_frames=num_frames, temporal_stride=4, params=params)


def slow_query_key(inputs: Inputs) -> Tensor:
    """Match by query and key with all heads' scores in memory at once."""
    query, key = (tensor.flatten(2, 3) for tensor in (inputs.query, inputs.key))

    def mean_map(asking: Tensor, answering: Tensor) -> Tensor:
        scores: Tensor = asking @ answering.transpose(-2, -1) / asking.shape[-1] ** 0.5
        return scores.softmax(dim=-1).mean(dim=0)

    return slow_read_out(
        inputs,
        lambda j: (mean_map(query[:, 0], key[:, j]) + mean_map(query[:, j], key[:, 0]).T) / 2,
    )


def slow_feature(inputs: Inputs) -> Tensor:
    """Match by the raw dot product of features."""
    feature = inputs.feature.flatten(2, 3).permute(1, 2, 0, 3).flatten(2)
    return slow_read_out(inputs, lambda j: (feature[0] @ feature[j].T).softmax(dim=-1))


def slow_attention(inputs: Inputs) -> Tensor:
    """Give attention rows of the points over all tokens, every head's rows in memory at once."""
    _, _, rows, cols, channels = inputs.query.shape
    row, col = (inputs.points_xy_px / STRIDE_PX).round().long().to(inputs.query.device).unbind(dim=-1)
    asking = inputs.query[:, 0].flatten(1, 2)[:, row.clamp(0, rows - 1) * cols + col.clamp(0, cols - 1)]
    answering = torch.cat([inputs.text_key, inputs.key.flatten(1, 3)], dim=1)
    scores: Tensor = asking @ answering.transpose(-2, -1) / channels**0.5
    return scores.softmax(dim=-1).mean(dim=0)


def slow_read_out(inputs: Inputs, correlation: Callable[[int], Tensor]) -> Tensor:
    """Second softmax, best match of every token, bilinear read-out of that map, and a linear resize in time."""
    _, num_latent_frames, rows, cols, _ = inputs.query.shape
    device = inputs.query.device
    points = inputs.points_xy_px.to(device)
    margin = cols / 64
    at = 2 * points / STRIDE_PX / torch.tensor([cols - margin, rows - margin], device=device) - 1
    positions = [points]
    for latent_frame in range(1, num_latent_frames):
        best_xy = slow_best_matches(correlation(latent_frame).T.reshape(1, rows * cols, rows, cols))
        read = torch.nn.functional.grid_sample(best_xy, at[None, None], align_corners=True)
        positions.append(read[0, :, 0].T * STRIDE_PX)
    track = torch.stack(positions).permute(1, 2, 0)
    size = 1 + 4 * (num_latent_frames - 1)
    return torch.nn.functional.interpolate(track, size=size, mode="linear").permute(2, 0, 1)


def slow_best_matches(correlation: Tensor) -> Tensor:
    """Give the best target token of every source token, [1, xy, row, col], from [1, target token, row, col].

    As in the released code the softmax and the maximum run along the first axis of tokens, and the grids of indices and
    of positions of both frames are built by NumPy and copied to the device for every latent frame.
    """
    _, _, rows, cols = correlation.shape
    device = correlation.device

    def grids() -> list[Tensor]:
        xy = np.meshgrid(np.linspace(0, cols - 1, cols), np.linspace(0, rows - 1, rows))
        indices = np.meshgrid(range(cols), range(rows))
        return [torch.from_numpy(grid).float().to(device) for grid in xy] + [
            torch.from_numpy(grid).long().to(device) for grid in indices
        ]

    x, y, col, row = grids()
    x_source, y_source, col_source, row_source = grids()
    score, best = correlation.softmax(dim=1).max(dim=1)
    row_of, col_of = row.view(-1)[best.view(-1)], col.view(-1)[best.view(-1)]
    found = torch.stack([x[row_of, col_of], y[row_of, col_of]])
    _ = x_source[row_source, col_source], y_source[row_source, col_source], score.view(-1)
    return found.reshape(1, 2, rows, cols)


PARTS: dict[str, tuple[Callable[[Inputs, MatchingParams], Tensor], Callable[[Inputs], Tensor]]] = {
    "query_key": (ours_query_key, slow_query_key),
    "feature": (ours_feature, slow_feature),
    "attention": (ours_attention, slow_attention),
}


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Measure the most memory held above what was held before, in MB; empty where the system does not tell."""
    measured: list[float] = []
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield measured
        measured.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        yield measured
        return
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")
    before_kb = _status_kb(status, "VmRSS")
    yield measured
    measured.append((_status_kb(status, "VmHWM") - before_kb) / 1024)


def _status_kb(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))


def seconds_of(function: Callable[[], Tensor], device: str) -> float:
    """Run once and return the seconds until the result is there; on a CPU, the CPU seconds."""
    if not device.startswith("cuda"):
        worked = time.process_time()
        function()
        return (time.process_time() - worked) / torch.get_num_threads()
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ours_together(inputs: Inputs, params: MatchingParams) -> Tensor:
    """Do all three parts as one cell of an analysis does, waiting for the GPU once."""
    parts = [ours(inputs, params) for ours, _ in PARTS.values()]
    return parts[0]


def clip_matcher(inputs: Inputs, device: str) -> Callable[[], Tensor]:
    """Do all three parts as the `match` stage does, results on the host; px per video frame by query and key."""
    section = MatchSection(convention="released", per_head=False, device=device)
    text_mask = (True,) * inputs.text_key.shape[1]
    matcher = ClipMatcher(section, inputs.points_xy_px.numpy(), STRIDE_PX, text_mask)
    given = {"query": inputs.query, "key": inputs.key, "feature": inputs.feature, "text_key": inputs.text_key}

    def match() -> Tensor:
        found = matcher.match(given.__getitem__)
        tracks = np.stack([found[name][1] for name in ("match_xy_px", "feature_match_xy_px")])
        num_frames = 1 + 4 * (tracks.shape[1] - 1)
        return latent_to_frames(torch.from_numpy(tracks), num_frames=num_frames, temporal_stride=4, params=RELEASED)[0]

    return match


def record(several: Sequence[Callable[[], Tensor]]) -> float:
    """Call what records itself until it has, and give the most MB that a recording holds on to.

    The allocator's cache of earlier calls is given back first.
    """
    sizes = []
    for match in several:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        for _ in range(8):  # the first calls launch kernel by kernel
            match()
        torch.cuda.empty_cache()
        sizes.append((torch.cuda.memory_reserved() - before) / 2**20)
    return max(sizes)


@contextmanager
def kernels_for_any_gpu() -> Iterator[None]:
    """Disable kernels that only some GPUs run; existing recordings stay as they are."""
    with patch("difftrack.correspondence.kernels._pair_rows.on_hopper", lambda *_: False):
        yield


def least_disturbed(functions: Mapping[str, Callable[[], Tensor]], device: str, repeats: int) -> dict[str, float]:
    """Run functions in turns and give the shortest time of each: what else the machine does only ever adds.

    On a GPU, where milliseconds are measured, each runs once untimed, so that what another left in caches is gone.
    """

    def timed(function: Callable[[], Tensor]) -> float:
        if device.startswith("cuda"):
            function()
        return seconds_of(function, device)

    rounds = [{name: timed(function) for name, function in functions.items()} for _ in range(repeats)]
    return {name: min(seconds[name] for seconds in rounds) for name in functions}


def compare(name: str, shape: Shape, device: str, repeats: int) -> dict[str, Any]:
    """Run both versions of all three parts."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    inputs = make_inputs(shape, device, dtype)
    few = replace(inputs, points_xy_px=grid_points(replace(shape, points=24)))
    parts: dict[str, Any] = {}
    for part, (ours, slow) in PARTS.items():
        functions: dict[str, Callable[[], Tensor]] = {
            "seconds": partial(ours, inputs, RELEASED),
            "seconds_24_points": partial(ours, few, RELEASED),
        }
        extra_mb, results = {}, {}
        for version, function in (("seconds", functions["seconds"]), ("slow_seconds", partial(slow, inputs))):
            if device.startswith("cuda"):
                function()  # compiled kernels and the workspaces of libraries are not buffers
            with peak_memory(device) as peak:
                results[version] = function()
            extra_mb[version] = peak[0] if peak else None
        seconds = least_disturbed(functions, device, 10 * repeats if device.startswith("cuda") else repeats)
        seconds |= least_disturbed({"slow_seconds": partial(slow, inputs)}, device, repeats)
        parts[part] = {
            **seconds,
            "ratio": seconds["slow_seconds"] / seconds["seconds"],
            "extra_mb": extra_mb["seconds"],
            "slow_extra_mb": extra_mb["slow_seconds"],
        }
        if part != "attention":
            distance = (results["seconds"] - results["slow_seconds"]).abs()
            parts[part]["same_within_0.01px"] = float((distance < 0.01).all(dim=-1).float().mean())
        print(part, json.dumps(parts[part]))
    total = {key: sum(part[key] for part in parts.values()) for key in ("seconds", "seconds_24_points", "slow_seconds")}
    if device.startswith("cuda"):
        total["sum_of_parts_seconds"] = total["seconds"]
        recorded = {
            "seconds": clip_matcher(inputs, device),
            "seconds_24_points": clip_matcher(few, device),
        }
        total["recording_mb"] = record(list(recorded.values()))
        with kernels_for_any_gpu():
            recorded["seconds_kernels_for_any_gpu"] = clip_matcher(inputs, device)
            total["recording_mb_kernels_for_any_gpu"] = record([recorded["seconds_kernels_for_any_gpu"]])
        launched = {
            "launched_seconds": partial(ours_together, inputs, RELEASED),
            "launched_seconds_24_points": partial(ours_together, few, RELEASED),
        }
        total |= least_disturbed({**recorded, **launched}, device, 10 * repeats)
        total["recorded_equals_launched"] = torch.equal(recorded["seconds"](), ours_query_key(inputs, RELEASED).cpu())
    return {
        "shape_name": name,
        "shape": asdict(shape),
        "dtype": str(dtype),
        "parts": parts,
        "total": {
            **total,
            "ratio": total["slow_seconds"] / total["seconds"],
            "ratio_24_to_all_points": total["seconds"] / total["seconds_24_points"],
            "extra_mb": max(total.get("recording_mb", 0), *(part["extra_mb"] or 0 for part in parts.values())),
            "slow_extra_mb": max(part["slow_extra_mb"] or 0 for part in parts.values()),
        },
        "agreement_with_expected": agreement(inputs) if name == "recipe" else None,
        "machine": machine(device),
    }


def agreement(inputs: Inputs) -> dict[str, float] | None:
    """Compare with the recipe's expected numbers, if they are present."""
    path = FIXTURES / "bench_expected.npz"
    if not path.exists():
        return None
    expected = np.load(path)
    found = {
        "trajectory_qk": ours_query_key(inputs, RELEASED),
        "trajectory_feat": ours_feature(inputs, RELEASED),
    }
    shares = {
        name: float((np.abs(track.float().cpu().numpy() - expected[name][0]) < 0.01).all(axis=-1).mean())
        for name, track in found.items()
    }
    mask = torch.ones(inputs.text_key.shape[1], dtype=torch.bool, device=inputs.query.device)
    three = tokens_of(inputs, RELEASED)[[0, 137, 399]]
    rows = attention_rows(inputs.query, inputs.key, inputs.text_key, mask, three, params=RELEASED)
    return {
        **shares,
        "attention_largest_error": float(np.abs(rows.cpu().numpy() - expected["attn_weight_rows"]).max()),
    }


def scaling(device: str) -> dict[str, Any]:
    """Time query-key matching against points, tokens, heads and frames, one at a time around the small shape."""
    base = replace(SHAPES["small"], heads=8, frames=9)
    axes: dict[str, dict[int, Shape]] = {
        "points": {n: replace(base, points=n) for n in (4, 16, 64, 144, 400)},
        "tokens per frame": {r * 24: replace(base, rows=r) for r in (8, 16, 24, 32, 48)},
        "heads": {h: replace(base, heads=h) for h in (4, 8, 16, 24, 32)},
        "latent frames": {f: replace(base, frames=f) for f in (3, 5, 9, 13, 17)},
    }
    params = MatchingParams.preset("corrected")
    seconds: dict[str, dict[int, float]] = {}
    for axis, shapes in axes.items():
        seconds[axis] = {}
        for size, shape in shapes.items():
            inputs = make_inputs(shape, device, torch.bfloat16 if device.startswith("cuda") else torch.float32)
            functions: dict[str, Callable[[], Tensor]] = {"ours": partial(ours_query_key, inputs, params)}
            seconds[axis][size] = least_disturbed(functions, device, 5)["ours"]
    return {"base": asdict(base), "seconds": seconds, "machine": machine(device)}


def tune(device: str) -> None:
    """Try tiles of the kernels for any GPU and print what query-key matching takes with each."""
    from difftrack.correspondence.kernels import _tiles

    for shape in (SHAPES["recipe"], replace(SHAPES["hunyuanvideo"], text=0)):
        inputs = make_inputs(shape, device, torch.bfloat16)
        chosen = _tiles.TILES[shape.channels]
        tiles = [
            _tiles.Tile(rows, columns, warps, stages)
            for rows, columns, warps in ((128, 128, 8), (128, 64, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4))
            for stages in (2, 3, 4)
        ]
        for kernel in ("normaliser", "mean"):
            for tile in tiles:
                _tiles.TILES[shape.channels] = replace(chosen, **{kernel: tile})
                try:
                    ours_query_key(inputs, RELEASED)
                    functions: dict[str, Callable[[], Tensor]] = {"ours": partial(ours_query_key, inputs, RELEASED)}
                    milliseconds = 1000 * least_disturbed(functions, device, 5)["ours"]
                    print(f"channels {shape.channels} {kernel:10s} {tile}: {milliseconds:.3f} ms")
                except Exception as error:  # a tile that does not fit
                    print(f"channels {shape.channels} {kernel:10s} {tile}: {str(error).splitlines()[0]}")
            _tiles.TILES[shape.channels] = chosen


def draw_scaling(result: dict[str, Any], path: Path) -> None:
    """Draw the four curves of `scaling` in one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for axis, (name, seconds) in zip(axes, result["seconds"].items(), strict=True):
        axis.plot(list(seconds), [1000 * value for value in seconds.values()], marker="o")
        axis.set(xlabel=name, ylim=(0, None), xlim=(0, None))
    axes[0].set_ylabel("query-key matching, ms")
    figure.savefig(path, dpi=120)


def machine(device: str) -> dict[str, Any]:
    """Describe the machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else cpu
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "triton": metadata.version("triton") if device.startswith("cuda") else None,
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.system(),
    }


def main() -> None:
    """Parse the command line, run, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="recipe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scaling", action="store_true", help="time against points, tokens, heads and frames instead")
    parser.add_argument("--tune", action="store_true", help="try tiles of the kernels for any GPU instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    RESULTS.mkdir(exist_ok=True)
    if arguments.tune:
        with kernels_for_any_gpu():
            tune(arguments.device)
        return
    if arguments.scaling:
        result = scaling(arguments.device)
        draw_scaling(result, RESULTS / f"matching_scaling_{arguments.device}.png")
        (RESULTS / f"matching_scaling_{arguments.device}.json").write_text(json.dumps(result, indent=2) + "\n")
        return
    for name in SHAPES if arguments.shape == "all" else [arguments.shape]:
        result = compare(name, SHAPES[name], arguments.device, arguments.repeats)
        print(name, json.dumps(result["total"]), json.dumps(result["agreement_with_expected"]))
        (RESULTS / f"matching_{name}_{arguments.device}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
