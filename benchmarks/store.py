"""The descriptor store compared with np.memmap and safetensors, in one process on one core.

Usage: python -m benchmarks.store [STORE]

Without STORE the values are synthetic: smooth low-rank fields plus noise, of unit variance per channel and rounded to
bfloat16, in the shapes of CogVideoX-2B and of the shipped backbone. With STORE they are one query and one key of that
store. Results go to benchmarks/results/store.json. All rates are per byte of float16, with a warm page cache, the best
of several runs.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from difftrack.geometry import TokenGrid
from difftrack.store import DescriptorSpec, StoreParams, create_group, open_store

RESULTS = Path(__file__).parent / "results" / "store.json"

SHAPES = {"CogVideoX-2B": (30, 13, 30, 45, 64), "shipped backbone": (4, 5, 16, 24, 64)}
"""[head, latent_frame, row, col, channel]"""

PARAMS = {
    "store": StoreParams(),
    "store, codec blosc-lz4": StoreParams(codec="blosc-lz4"),
    "store, codec none": StoreParams(codec="none"),
    "store, dtype bfloat16": StoreParams(dtype="bfloat16"),
    "store, dtype int8": StoreParams(dtype="int8"),
}


@dataclass(frozen=True)
class Row:
    """Measurements of one format on one unit."""

    write_mb_per_s: float
    ratio: float
    """float16 bytes per stored byte."""
    layer_read_mb_per_s: float
    layer_of_memmap: float
    """Speed of a layer read over that of np.memmap, measured just before and after it."""
    layer_ms: float
    frame_ms: float
    head_ms: float
    point_ms: float
    matches_kept: float
    """Share of tokens whose best match in the last latent frame is the same as with float16."""


@dataclass(frozen=True)
class Format:
    """How to write one array, and to read parts of it."""

    path: Path
    write: Callable[[], object]
    layer: Callable[[], np.ndarray]
    frame: Callable[[], np.ndarray]
    head: Callable[[], np.ndarray]
    point: Callable[[], np.ndarray]


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", type=Path, metavar="STORE")
    given = parser.parse_args().store
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    inputs = {name: _synthetic(shape) for name, shape in SHAPES.items()}
    if given is not None:
        inputs = dict([_stored(given)])
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (query, key) in inputs.items():
            results[name] = _compare(Path(folder) / name.replace("/", "_"), query, key)
            _print(f"{name} {list(query.shape)}, {query.nbytes / 1e6:.1f} MB", results[name])
        rounding = _rounding_cost(Path(folder) / "rounding")
    document = {
        "machine": f"{_processor()}, one core",
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "zarr", "numcodecs", "safetensors")},
        "python": platform.python_version(),
        "values": "synthetic" if given is None else "stored descriptors",
        "results": {name: {row: asdict(values) for row, values in rows.items()} for name, rows in results.items()},
        "float32_input": rounding,
    }
    print("float32 input:", json.dumps(rounding, indent=2))
    previous = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    previous["synthetic" if given is None else "real"] = document
    RESULTS.write_text(json.dumps(previous, indent=2) + "\n")


def _compare(folder: Path, query: np.ndarray, key: np.ndarray) -> dict[str, Row]:
    folder.mkdir()
    memmap = _memmap(folder / "memmap", query)
    formats = {"np.memmap": memmap, "safetensors": _safetensors(folder / "safetensors", query)}
    keys = dict.fromkeys(formats, key)
    for name, params in PARAMS.items():
        formats[name] = _store(folder / name, query, params)
        keys[name] = _store(folder / f"{name} of keys", key, params).layer()
    best = _best_matches(query, key)
    rows = {}
    memmap.write()
    for name, form in formats.items():
        write_s = _seconds(form.write)
        around = [_seconds(memmap.layer)]
        layer_s = _seconds(form.layer)
        around.append(_seconds(memmap.layer))
        rows[name] = Row(
            write_mb_per_s=query.nbytes / write_s / 1e6,
            ratio=query.nbytes / _size(form.path),
            layer_read_mb_per_s=query.nbytes / layer_s / 1e6,
            layer_of_memmap=min(around) / layer_s,
            layer_ms=layer_s * 1e3,
            frame_ms=_seconds(form.frame) * 1e3,
            head_ms=_seconds(form.head) * 1e3,
            point_ms=_seconds(form.point) * 1e3,
            matches_kept=float(np.mean(_best_matches(form.layer(), keys[name]) == best)),
        )
    return rows


def _memmap(path: Path, values: np.ndarray) -> Format:
    def write() -> None:
        path.unlink(missing_ok=True)
        values.tofile(path)

    def opened() -> np.ndarray:
        return np.memmap(path, values.dtype, "r", shape=values.shape)

    middle = tuple(size // 2 for size in values.shape)
    return Format(
        path,
        write,
        lambda: np.array(opened()),
        lambda: np.array(opened()[:, middle[1]]),
        lambda: np.array(opened()[middle[0]]),
        lambda: np.array(opened()[:, middle[1], middle[2], middle[3]]),
    )


def _safetensors(path: Path, values: np.ndarray) -> Format:
    def write() -> None:
        path.unlink(missing_ok=True)
        save_file({"query": values}, path)

    def part(*index: int | slice) -> np.ndarray:
        with safe_open(path, framework="numpy") as file:
            read: np.ndarray = file.get_slice("query")[index]
            return read

    middle = tuple(size // 2 for size in values.shape)
    everything = slice(None)
    return Format(
        path,
        write,
        lambda: part(everything),
        lambda: part(everything, slice(middle[1], middle[1] + 1)),
        lambda: part(slice(middle[0], middle[0] + 1)),
        lambda: part(everything, *(slice(at, at + 1) for at in middle[1:4])),
    )


def _store(path: Path, values: np.ndarray, params: StoreParams) -> Format:
    writer = create_group(path, "clip", _spec(values.shape), params=params)
    writer.write(0, 0, {"query": values})
    writer.finish()
    store = open_store(path)
    head, frame, row, col = (size // 2 for size in values.shape[:4])

    def sel(**part: int) -> np.ndarray:
        return store.sel(clip="clip", step=0, layer=0, kind="query", **part)

    return Format(
        path / "clip",
        lambda: writer.write(0, 0, {"query": values}),
        sel,
        lambda: sel(latent_frame=frame),
        lambda: sel(head=head),
        lambda: sel(latent_frame=frame)[:, row, col],
    )


def _spec(shape: tuple[int, ...]) -> DescriptorSpec:
    heads, frames, rows, cols, channels = shape
    grid = TokenGrid(num_latent_frames=frames, rows=rows, cols=cols, stride_px=8, temporal_stride=4)
    return DescriptorSpec(
        steps=(0,),
        timesteps=(0.0,),
        layers=(0,),
        heads=tuple(range(heads)),
        num_channels=channels,
        grid=grid,
        frames=tuple(range(0, 4 * frames, 4)),
        clip_size=(grid.height, grid.width),
        size=(grid.height, grid.width),
        kinds=("query",),
    )


def _rounding_cost(folder: Path) -> dict[str, dict[str, float]]:
    """The effect of `round_to_bf16` on size, speed and values of float32 input."""
    values = _smooth((30, 3, 30, 45, 64), seed=1)
    costs = {}
    for rounded in (False, True):
        form = _store(folder / str(rounded), values, StoreParams(round_to_bf16=rounded))
        error = np.abs(form.layer().astype(np.float32) - values).max() / np.abs(values).max()
        costs[f"round_to_bf16 {str(rounded).lower()}"] = {
            "ratio": values.nbytes / 2 / _size(form.path),
            "write_mb_per_s": values.nbytes / 2 / _seconds(form.write) / 1e6,
            "largest_error_of_peak": float(error),
        }
    return costs


def _best_matches(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Token of the last latent frame with the most attention, averaged over heads, for every 7th token of the first."""
    channels = query.shape[-1]
    total: Any = 0
    for of_head, to_head in zip(query[:, 0], key[:, -1], strict=True):
        points = of_head.reshape(-1, channels)[::7].astype(np.float32)
        logits = points @ to_head.reshape(-1, channels).astype(np.float32).T / np.sqrt(channels)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        total = total + weights / weights.sum(axis=-1, keepdims=True)
    best: np.ndarray = np.argmax(total, axis=-1)
    return best


def _synthetic(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return _bf16(_smooth(shape, seed=0)), _bf16(_smooth(shape, seed=0, noise_seed=1))


def _smooth(shape: tuple[int, ...], *, seed: int, noise_seed: int = 0) -> np.ndarray:
    heads, frames, rows, cols, channels = shape
    rng, noise = np.random.default_rng(seed), np.random.default_rng([seed, noise_seed])
    frame, row, col = np.meshgrid(*(np.linspace(0, 1, size) for size in (frames, rows, cols)), indexing="ij")
    waves = rng.normal(scale=8, size=(24, 3)) @ np.stack([frame.ravel() / 8, row.ravel(), col.ravel()])
    fields = np.sin(waves + rng.uniform(0, 2 * np.pi, (24, 1))).astype(np.float32)
    values = np.stack([fields.T @ rng.normal(size=(24, channels)).astype(np.float32) for _ in range(heads)])
    values += noise.normal(scale=0.3 * values.std(), size=values.shape).astype(np.float32)
    values /= np.sqrt(np.mean(values**2, axis=-1, keepdims=True))
    return values.reshape(shape)


def _bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) + 0x8000 & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float16)


def _stored(path: Path) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    store = open_store(path)
    group = store.groups()[0]
    spec = store.spec(group)
    step, layer = spec.steps[-1], spec.layers[-1]
    query, key = (
        store.sel(clip=group, step=step, layer=layer, kind=kind).astype(np.float16) for kind in ("query", "key")
    )
    return f"{group}, step {step}, layer {layer}", (query, key)


def _seconds(action: Callable[[], object], *, budget_s: float = 0.25) -> float:
    action()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < budget_s:
        before = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - before)
    return best


def _size(path: Path) -> int:
    """Bytes of a file, or of all shards in a group; int8 has scales next to its numbers."""
    return path.stat().st_size if path.is_file() else sum(shard.stat().st_size for shard in path.rglob("c.*"))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _print(title: str, rows: dict[str, Row]) -> None:
    print(f"\n{title}")
    print(f"{'':26} write MB/s  ratio  layer MB/s  x memmap  layer ms  frame ms  head ms  point ms  matches kept")
    for name, row in rows.items():
        print(
            f"{name:26} {row.write_mb_per_s:10.0f} {row.ratio:6.2f} {row.layer_read_mb_per_s:11.0f}"
            f" {row.layer_of_memmap:9.3f} {row.layer_ms:9.2f} {row.frame_ms:9.2f}"
            f" {row.head_ms:8.2f} {row.point_ms:9.3f}"
            f" {row.matches_kept:13.3f}"
        )


if __name__ == "__main__":
    main()
