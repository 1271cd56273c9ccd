"""Time and memory of one (clip, step) of real-size backbones with random weights, captured and not.

Usage: python -m benchmarks.backbones_gpu [NAME ...] [--tiny]

Measured for each backbone, on the GPU in bfloat16:

* two branches, as guided sampling runs them (one batch of two), and one branch, both without capture;
* one branch with taps on three layers and all layers run, which is what tapping alone costs;
* capture of one layer in the middle and of three layers, which stop after the last of them; queries and keys stay
  on the GPU, or go to the host layer by layer as an extraction sends them;
* the share of matches that a branch run alone and cut off has in common with the same branch in a batch of two.

`--tiny` runs small versions on whatever device there is, to see that everything works. Results go to
benchmarks/results/backbones_gpu.json, beside the device's name.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difftrack.backbones import (
    AttentionCall,
    Backbone,
    ImageConditioning,
    Kind,
    LayerDescriptors,
    ModelParams,
    PromptEmbedding,
    Schedule,
    constructed_backbone,
    intercept,
)
from difftrack.geometry import TokenGrid

RESULTS = Path(__file__).parent / "results" / "backbones_gpu.json"
STEP, NUM_STEPS = 40, 50
KINDS: tuple[Kind, ...] = ("query", "key")


@dataclass(frozen=True)
class Setting:
    """At which size a backbone is measured, and which layers are captured."""

    size: tuple[int, int, int]
    """(frames, height, width)."""
    layer: int
    """The layer that the paper tracks with, or one in the middle."""
    three: tuple[int, int, int]


SETTINGS = {
    "cogvideox-2b": Setting((49, 480, 720), 17, (13, 17, 21)),
    "cogvideox-5b": Setting((49, 480, 720), 16, (15, 17, 18)),
    "hunyuan-video": Setting((49, 480, 720), 16, (16, 33, 34)),
    "wan2.1-1.3b": Setting((81, 480, 832), 15, (10, 15, 20)),
}
TINY = Setting((9, 96, 160), 1, (0, 1, 2))


@dataclass(frozen=True)
class Cost:
    """Of one forward."""

    seconds: float
    """Median of several."""
    fastest: float
    peak_gb: float
    """Most memory at a time, weights included; 0 without a GPU."""


@dataclass(frozen=True)
class Run:
    """A backbone with everything that one forward reads."""

    backbone: Backbone
    grid: TokenGrid
    schedule: Schedule
    latents: Tensor
    prompt: PromptEmbedding
    conditioning: ImageConditioning | None

    @classmethod
    def of(cls, name: str, setting: Setting, *, tiny: bool, device: str) -> "Run":
        """Build a backbone with random weights, and noise for a clip."""
        params = ModelParams(device=device, dtype="bfloat16" if device == "cuda" else "float32")
        backbone = constructed_backbone(name, params, small=tiny)
        grid = backbone.token_grid(*setting.size)
        patch, fold = backbone.patch_size, backbone.latents_per_token_frame
        latents = backbone.placeholder_latents(grid.num_latent_frames * fold, grid.rows * patch, grid.cols * patch)
        schedule, conditioning = backbone.schedule(NUM_STEPS, grid=grid), backbone.placeholder_conditioning(latents)
        return cls(backbone, grid, schedule, latents, backbone.placeholder_prompt(), conditioning)

    def one_branch(self) -> None:
        """A whole forward."""
        self._predict()

    def two_branches(self) -> None:
        """A whole forward of two branches in one batch."""
        self._forward_twice()

    def tapped(self, *layers: int) -> None:
        """A whole forward, every query and key of these layers looked at."""
        modules = self.backbone.attention_modules()
        with intercept({layer: modules[layer] for layer in layers}, AttentionCall.run):
            self._predict()

    def captured(self, sink: Callable[[LayerDescriptors], None], *layers: int) -> None:
        """A forward that stops after the last of the layers."""
        self.backbone.capture_into(
            sink,
            self.latents,
            STEP,
            self.schedule,
            self.prompt,
            layers=layers,
            kinds=KINDS,
            conditioning=self.conditioning,
        )

    def agreement(self, layer: int) -> float:
        """Share of tokens of frame 0 whose match in each other frame is the same alone and in a batch of two."""
        pairs: list[tuple[Tensor, Tensor]] = []
        first = self.backbone.num_text_tokens if self.backbone.text_position == "first" else 0
        video = slice(first, first + self.grid.num_tokens)

        def tap(call: AttentionCall) -> Tensor:
            pairs.append((call.query[-1, :, video], call.key[-1, :, video]))
            if len(pairs) == 2:  # alone, nothing past this layer is needed
                raise StopIteration
            return call.run()

        with suppress(StopIteration), intercept({layer: self.backbone.attention_modules()[layer]}, tap):
            self.two_branches()
            self.one_branch()
        in_batch, alone = (_matches(query, key, self.grid) for query, key in pairs)
        return float((in_batch == alone).float().mean())

    def _predict(self) -> None:
        timestep = self.schedule.timesteps[STEP]
        self.backbone.predict(self.latents, timestep, self.prompt, conditioning=self.conditioning)

    @torch.no_grad()
    def _forward_twice(self) -> None:
        """The transformer's own inputs, each of them doubled."""
        transformer, forward = self.backbone.transformer, self.backbone.transformer.forward

        def doubled(**inputs: Any) -> Any:  # noqa: ANN401 - whatever the transformer reads
            twice = {key: torch.cat([value, value]) if _is_batch(value) else value for key, value in inputs.items()}
            return tuple(output[:1] for output in forward(**twice))

        transformer.forward = doubled
        try:
            self._predict()
        finally:
            del transformer.forward


def _is_batch(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 1


def _matches(query: Tensor, key: Tensor, grid: TokenGrid) -> Tensor:
    """Best token in each later frame for each token of frame 0, by attention averaged over heads."""
    frames = key.view(len(key), grid.num_latent_frames, grid.tokens_per_frame, -1)
    scaled = query[:, : grid.tokens_per_frame] / query.shape[-1] ** 0.5
    best = []
    for frame in range(1, grid.num_latent_frames):
        logits = scaled.float() @ frames[:, frame].float().transpose(1, 2)
        best.append(logits.softmax(dim=-1).mean(dim=0).argmax(dim=-1))
    return torch.stack(best)


def measure(name: str, setting: Setting, *, tiny: bool, device: str, repeats: int) -> dict[str, Any]:
    """All of one backbone."""
    run = Run.of(name, setting, tiny=tiny, device=device)
    held: list[LayerDescriptors] = []

    def hold(record: LayerDescriptors) -> None:
        held.append(record)

    def to_host(record: LayerDescriptors) -> None:
        for tensor in (record.query, record.key):
            if tensor is not None:
                tensor.cpu()

    ways: dict[str, Callable[[], None]] = {
        "two branches": run.two_branches,
        "one branch": run.one_branch,
        "one branch, three layers tapped, all run": lambda: run.tapped(*setting.three),
        "capture of one layer": lambda: run.captured(hold, setting.layer),
        "capture of three layers": lambda: run.captured(hold, *setting.three),
        "capture of one layer, to the host": lambda: run.captured(to_host, setting.layer),
        "capture of three layers, to the host": lambda: run.captured(to_host, *setting.three),
    }
    costs = {way: _cost(forward, held, device=device, repeats=repeats) for way, forward in ways.items()}
    seconds = {way: cost.seconds for way, cost in costs.items()}
    backbone = run.backbone
    return {
        "size": setting.size,
        "tokens": [run.grid.num_latent_frames, run.grid.rows, run.grid.cols],
        "counts": [backbone.num_layers, backbone.num_heads, backbone.num_channels],
        "layer": setting.layer,
        "three_layers": setting.three,
        "costs": {way: asdict(cost) for way, cost in costs.items()},
        "tapping_overhead": seconds["one branch, three layers tapped, all run"] / seconds["one branch"] - 1,
        "capture_of_one_layer_is_faster_than_two_branches": seconds["two branches"] / seconds["capture of one layer"],
        "matches_as_in_a_batch_of_two": run.agreement(setting.layer),
    }


def _cost(forward: Callable[[], None], held: list[LayerDescriptors], *, device: str, repeats: int) -> Cost:
    on_gpu = device == "cuda"
    forward()
    held.clear()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        forward()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        held.clear()
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    return Cost(statistics.median(times), min(times), peak)


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--tiny", action="store_true", help="small versions, on a CPU where there is no GPU")
    parser.add_argument("--repeats", type=int, default=5, help="timed forwards of each kind, after one untimed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    choices = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not choices.tiny:
        parser.error("real sizes need a GPU; --tiny runs anywhere")
    if unknown := sorted(set(choices.names) - set(SETTINGS)):
        parser.error(f"no setting for {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    results = {}
    for name in choices.names:
        setting = TINY if choices.tiny else SETTINGS[name]
        results[name] = measure(name, setting, tiny=choices.tiny, device=device, repeats=choices.repeats)
        _show(name, results[name])
        gc.collect()
        torch.cuda.empty_cache()
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "dtype": "bfloat16" if device == "cuda" else "float32",
        "tiny": choices.tiny,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "diffusers")},
        "results": results,
    }
    choices.out.write_text(json.dumps(report, indent=2) + "\n")


def _show(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: {result['size']}, {result['counts']} layers x heads x channels, tokens {result['tokens']}")
    for way, cost in result["costs"].items():
        print(f"  {way:<44}{1000 * cost['seconds']:9.1f} ms{cost['peak_gb']:8.1f} GB")
    print(f"  tapping costs {result['tapping_overhead']:.1%} of a forward")
    faster = result["capture_of_one_layer_is_faster_than_two_branches"]
    print(f"  capture of layer {result['layer']} is {faster:.2f} x faster than two branches")
    print(f"  {result['matches_as_in_a_batch_of_two']:.2%} of matches as in a batch of two", flush=True)


if __name__ == "__main__":
    main()
