"""Capture, survey and tracking at real size with random weights, and what `difftrack plan` estimates for them.

Usage: python -m benchmarks.in_memory [NAME ...] [--tiny]

This is for backbones whose random weights are too large to be written to a disk first: weights are drawn on the card,
and one process does everything. One rendered clip goes through the analysis view (noised, one step, three layers), a
survey of all layers at two steps with a grid of 400 points, and the tracking view (chunks of the published length, one
layer), whose tracks follow 256 points. Measured are seconds and peaks of the card, next to the seconds that the rates
of `difftrack plan` give for the same work. Results go to benchmarks/results/in_memory.json after each backbone.
"""

import argparse
import datetime
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from benchmarks._random_pipeline import MODELS, random_backbone
from difftrack.backbones import Backbone, ModelParams
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.correspondence import ClipMatcher, MatchSection
from difftrack.datasets import Clip
from difftrack.estimates._costs import Card
from difftrack.estimates._model import Model
from difftrack.extraction import AnalysisParams, CapturedUnit, Extractor, TrackingParams
from difftrack.extraction._params import ModeParams
from difftrack.geometry import TokenGrid
from difftrack.rendering import RenderSpec, render_clip
from difftrack.store import StoreParams
from difftrack.store.torch_writer import as_read
from difftrack.tracking import TrackParams
from difftrack.workflows.track import track_chunks
from difftrack.workflows.track_live import captured_chunks

RESULTS = Path(__file__).parent / "results" / "in_memory.json"
SIZES = {"wan2.1-1.3b": (81, 480, 832), "hunyuan-video": (49, 480, 720)}
LAYERS = {"cogvideox-2b": 17, "cogvideox-5b": 16, "wan2.1-1.3b": 15, "hunyuan-video": 16}
NUM_STEPS, SURVEYED = 50, (10, 49)


class _Timer:
    """Seconds and peaks by name."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self._on_gpu = torch.cuda.is_available()

    def run(self, name: str, do: Callable[[], Any]) -> Any:  # noqa: ANN401
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result = do()
        if self._on_gpu:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else 0
        self.found[name] = {"seconds": round(time.perf_counter() - started, 2), "peak_gb": round(peak / 1e9, 2)}
        return result


def measure(name: str, *, tiny: bool) -> dict[str, Any]:
    """Measure one backbone."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    num_frames, height, width = (9, 96, 160) if tiny else SIZES.get(name, (49, 480, 720))
    layer = 1 if tiny else LAYERS[name]
    timer = _Timer()
    params = ModelParams(device=device, dtype="bfloat16")
    backbone: Backbone = timer.run("draw weights", lambda: _loaded(random_backbone(name, params, tiny=tiny)))
    spec = RenderSpec(seed=3, num_frames=max(num_frames, 14 if tiny else 50), height=height, width=width)
    clip = Clip("rendered", render_clip(spec).frames, fps=8.0, prompt="a red disc moves", source="rendered")
    common = {"height": height, "width": width, "num_inference_steps": NUM_STEPS}
    modes = ModeParams(rendered="add_noise")
    three = tuple(sorted({max(layer - 1, 0), layer, layer + 1}))
    analysis = AnalysisParams(**common, num_frames=num_frames, steps=(40,), layers=three, mode=modes)
    for turn in ("first", "again"):
        timer.run(f"analysis, three layers of a step, {turn}", lambda: _captured(Extractor(backbone, analysis), clip))
    grid = backbone.token_grid(num_frames, height, width)
    survey = AnalysisParams(**common, num_frames=num_frames, steps=SURVEYED, layers="all", mode=modes)
    points = _grid(height, width, 20)
    _surveyed(Extractor(backbone, survey), clip, points)  # the first run compiles its kernels
    timer.run(
        f"survey, all layers of {len(SURVEYED)} steps", lambda: _surveyed(Extractor(backbone, survey), clip, points)
    )
    tracking = TrackingParams(
        **common,
        steps=(NUM_STEPS - 1,),
        layers=(layer,),
        descriptors=("query", "key"),
        mode=ModeParams(rendered="clean"),
        chunks=ChunkParams(chunk_len=3 if tiny else 13, schedule="released", interleaved=True),
    )
    chunks = chunk_schedule(clip.num_frames, tracking.chunks, native_len=backbone.native_token_frames)
    extractor = Extractor(backbone, tracking)
    extraction = extractor.prepare(clip, chunks=chunks)
    section = TrackParams(layers=(layer,), device=device)
    held, first = timer.run(
        f"tracking, {len(chunks)} chunks", lambda: captured_chunks(extraction, section, StoreParams(dtype="bfloat16"))
    )
    queries = np.column_stack([np.zeros(256, np.float32), _grid(height, width, 16)]).astype(np.float32)
    timer.run("tracks of 256 points", lambda: track_chunks(held, first, queries, section, frames=clip.frames))
    del held, extraction, extractor
    return {
        "size": [num_frames, height, width],
        "layer": layer,
        "chunks": len(chunks),
        "measured": timer.found,
        "estimated": {} if tiny else _estimates(name, backbone, grid, layer, num_chunks=len(chunks), three=three),
    }


def _grid(height: int, width: int, side: int) -> np.ndarray:
    """(x, y) of points inside the picture."""
    x, y = np.meshgrid(np.linspace(0.1, 0.9, side) * width, np.linspace(0.1, 0.9, side) * height)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def _loaded(backbone: Backbone) -> Backbone:
    for component in backbone.components.names:
        backbone.components[component]
    return backbone


def _captured(extractor: Extractor, clip: Clip) -> None:
    extraction = extractor.prepare(clip)
    for group in extraction.groups:
        extraction.run(extraction.plan(group), lambda unit: None)


def _surveyed(extractor: Extractor, clip: Clip, points: np.ndarray) -> None:
    extraction = extractor.prepare(clip)
    ((group, spec),) = extraction.groups.items()
    stored = StoreParams()
    matcher = ClipMatcher(MatchSection(), points, spec.grid.stride_px, spec.text_mask)
    extraction.run(extraction.plan(group), lambda unit: _matched(matcher, unit, stored))


def _matched(matcher: ClipMatcher, unit: CapturedUnit, stored: StoreParams) -> None:
    matcher.match(lambda kind: as_read(unit.tensors[kind], stored))


def _estimates(
    name: str, backbone: Backbone, grid: TokenGrid, layer: int, *, num_chunks: int, three: Sequence[int]
) -> Mapping[str, float]:
    """Seconds by the plan's rates for the same work: a forward that stops after a layer counts by its share."""
    card, model = Card(), Model.of(name, ModelParams(dtype="bfloat16"))
    share = 1 / backbone.num_layers
    forward = model.forward_s(grid, card)
    num_frames = (grid.num_latent_frames - 1) * grid.temporal_stride + 1
    encoded = num_frames * grid.rows * grid.cols * grid.stride_px**2 / card.encoded_px_per_s
    return {
        "one whole forward": round(forward, 3),
        "analysis, three layers of a step": round(encoded + forward * (max(three) + 1) * share, 2),
        f"survey, all layers of {len(SURVEYED)} steps": round(
            encoded + len(SURVEYED) * (forward + backbone.num_layers * card.matching_s), 2
        ),
        f"tracking, {num_chunks} chunks": round(encoded + num_chunks * forward * (layer + 1) * share, 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write after each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=("wan2.1-1.3b", "hunyuan-video"), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--tiny", action="store_true", help="small versions, on any device")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not given.tiny:
        parser.error("real sizes need a GPU; --tiny runs anywhere")
    report: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "dtype": "bfloat16",
        "tiny": given.tiny,
        "versions": {package.__name__: package.__version__ for package in (torch, diffusers, transformers)},
        "results": {},
    }
    for name in given.names:
        report["results"][name] = measure(name, tiny=given.tiny)
        given.out.write_text(json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(report["results"][name], indent=1), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
