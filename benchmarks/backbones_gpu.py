"""Time and memory of one (clip, step) of real-size backbones with random weights, captured and not.

Usage: python -m benchmarks.backbones_gpu [NAME ...] [--tiny]

Each backbone is measured on the GPU in bfloat16, all ways in turns, so that a change of clock affects all of them:

* two branches, as guided sampling of its own pipeline runs them (one batch of two for CogVideoX, one after the other
  for the rest), and one branch, both without capture;
* whether the output of a whole forward with every layer tapped has the same bits as without taps;
* one branch with taps on three layers and all layers run, which is the cost of tapping alone;
* one branch that stops after a layer in the middle, without capture and with;
* capture of three layers; queries and keys stay on the GPU, or go to the host layer by layer as in an extraction,
  through pinned memory and a separate stream;
* the share of matches that a branch run alone and cut off has in common with the same branch of guided sampling, and
  of a batch of two, whether or not its pipeline ever makes one.

`--tiny` runs small versions on any device, to see that everything works. Results and the device's name go to
benchmarks/results/backbones_gpu.json after each backbone. Only torch, diffusers and transformers are needed: no video
library, no pipeline.
"""

import argparse
import datetime
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from difftrack.backbones import (
    AttentionCall,
    Backbone,
    CapturedKind,
    ImageConditioning,
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
KINDS: tuple[CapturedKind, ...] = ("query", "key")


@dataclass(frozen=True)
class Setting:
    """The size at which a backbone is measured, and the layers that are captured."""

    size: tuple[int, int, int]
    """(frames, height, width)."""
    layer: int
    """The layer that the paper tracks with, or one in the middle."""
    three: tuple[int, int, int]
    batched: bool = False
    """Whether guided sampling of its pipeline in diffusers puts both branches into one batch."""


SETTINGS = {
    "cogvideox-2b": Setting((49, 480, 720), 17, (13, 17, 21), batched=True),
    "cogvideox-5b": Setting((49, 480, 720), 16, (15, 17, 18), batched=True),
    "hunyuan-video": Setting((49, 480, 720), 16, (16, 33, 34)),
    "wan2.1-1.3b": Setting((81, 480, 832), 15, (10, 15, 20)),
    "cosmos-predict2-2b": Setting((93, 704, 1280), 14, (10, 14, 18)),
    "ltx-2": Setting((121, 512, 768), 24, (16, 24, 32), batched=True),
    "kandinsky-5-lite": Setting((121, 512, 768), 16, (10, 16, 22)),
}
TINY_SIZE, TINY_LAYERS = (9, 96, 160), (0, 1, 2)


@dataclass(frozen=True)
class Cost:
    """Cost of one forward."""

    seconds: float
    """Median of several runs, seconds."""
    fastest: float
    peak_gb: float
    """Peak of memory, weights included; 0 without a GPU."""


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
        params = ModelParams(device=device, dtype="bfloat16")
        backbone = constructed_backbone(name, params, small=tiny)
        grid = backbone.token_grid(*setting.size)
        patch, fold = backbone.patch_size, backbone.latents_per_token_frame
        latents = backbone.placeholder_latents(grid.num_latent_frames * fold, grid.rows * patch, grid.cols * patch)
        schedule, conditioning = backbone.schedule(NUM_STEPS, grid=grid), backbone.placeholder_conditioning(latents)
        return cls(backbone, grid, schedule, latents, backbone.placeholder_prompt(), conditioning)

    def one_branch(self) -> None:
        """A whole forward."""
        self._predict()

    def two_branches(self, *, batched: bool) -> None:
        """Both branches, in one batch or one after the other, the conditional one first as in HunyuanVideo and Wan."""
        if batched:
            self._forward_twice()
        else:
            self._predict()
            self._predict()

    def tapped(self, *layers: int) -> None:
        """A whole forward with taps on every query and key of these layers."""
        modules = self.backbone.attention_modules()
        with intercept({layer: modules[layer] for layer in layers}, AttentionCall.run):
            self._predict()

    def is_the_same_tapped(self) -> bool:
        """Whether a whole forward's output is bit-equal with and without taps on all layers."""
        plain = self._predict()
        with intercept(dict(enumerate(self.backbone.attention_modules())), AttentionCall.run):
            return torch.equal(plain, self._predict())

    def cut_off(self, layer: int) -> None:
        """A forward that stops after the attention of a layer, without taps."""

        def leave(*_: object) -> None:
            raise StopIteration

        handle = self.backbone.attention_modules()[layer].register_forward_hook(leave)
        try:
            with suppress(StopIteration):
                self._predict()
        finally:
            handle.remove()

    def captured(self, sink: Callable[[LayerDescriptors], None], *layers: int) -> None:
        """A forward that stops after the last of the captured layers."""
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

    def agreement(self, layer: int, *, batched: bool) -> float:
        """Share of frame 0's tokens whose match in each other frame is the same from one branch cut off as from two."""
        pairs: list[tuple[Tensor, Tensor]] = []
        first = self.backbone.num_text_tokens if self.backbone.text_position == "first" else 0
        video = slice(first, first + self.grid.num_tokens)

        def tap(call: AttentionCall) -> Tensor:
            pairs.append((call.query[-1, :, video], call.key[-1, :, video]))
            if alone:  # no layer after this one is needed
                raise StopIteration
            return call.run()

        alone = False
        with intercept({layer: self.backbone.attention_modules()[layer]}, tap):
            self.two_branches(batched=batched)
            alone = True
            with suppress(StopIteration):
                self.one_branch()
        of_two, of_one = (_matches(query, key, self.grid) for query, key in (pairs[0], pairs[-1]))
        return float((of_two == of_one).float().mean())

    def _predict(self) -> Tensor:
        timestep = self.schedule.timesteps[STEP]
        return self.backbone.predict(self.latents, timestep, self.prompt, conditioning=self.conditioning)

    @torch.no_grad()
    def _forward_twice(self) -> None:
        """The transformer's own inputs, each of them doubled."""
        transformer, forward = self.backbone.transformer, self.backbone.transformer.forward

        def doubled(**inputs: Any) -> Any:  # noqa: ANN401 - whatever the transformer reads
            twice = {
                key: torch.cat([value, value]) if _is_batch(key, value) else value for key, value in inputs.items()
            }
            outputs = forward(**twice)
            return tuple(output[:1] for output in outputs) if isinstance(outputs, tuple) else outputs[:1]

        transformer.forward = doubled
        try:
            self._predict()
        finally:
            del transformer.forward


def _is_batch(key: str, value: object) -> bool:
    """Whether an input has one entry per clip; the mask of Cosmos' padding has one for all."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 1 and key != "padding_mask"


def _matches(query: Tensor, key: Tensor, grid: TokenGrid) -> Tensor:
    """Best token in each later frame for each token of frame 0, by attention averaged over heads."""
    frames = key.view(len(key), grid.num_latent_frames, grid.tokens_per_frame, -1)
    scaled = query[:, : grid.tokens_per_frame] / query.shape[-1] ** 0.5
    best = []
    for frame in range(1, grid.num_latent_frames):
        logits = scaled.float() @ frames[:, frame].float().transpose(1, 2)
        best.append(logits.softmax(dim=-1).mean(dim=0).argmax(dim=-1))
    return torch.stack(best)


class ToHost:
    """Sends queries and keys to the host as an extraction does: into pinned memory, while the forward continues."""

    def __init__(self) -> None:
        self._pinned: dict[tuple[int, CapturedKind], Tensor] = {}
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None

    def __call__(self, record: LayerDescriptors) -> None:
        """Take the queries and keys of one layer."""
        for kind in KINDS:
            tensor = getattr(record, kind)
            if self._stream is None:
                tensor.clone()
                continue
            place = (record.layer, kind)
            if place not in self._pinned:
                self._pinned[place] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._pinned[place].copy_(tensor, non_blocking=True)
            tensor.record_stream(self._stream)


def measure(name: str, setting: Setting, *, tiny: bool, device: str, repeats: int) -> dict[str, Any]:
    """Measure one backbone in every way."""
    started = time.perf_counter()
    run = Run.of(name, setting, tiny=tiny, device=device)
    backbone, transformer = run.backbone, run.backbone.transformer
    _wait(device)
    built = time.perf_counter()
    held: list[LayerDescriptors] = []

    def hold(record: LayerDescriptors) -> None:
        held.append(record)

    to_host = ToHost()
    ways: dict[str, Callable[[], None]] = {
        "two branches": lambda: run.two_branches(batched=setting.batched),
        "one branch": run.one_branch,
        "one branch, three layers tapped, all run": lambda: run.tapped(*setting.three),
        "one branch, cut off after the layer": lambda: run.cut_off(setting.layer),
        "capture of one layer": lambda: run.captured(hold, setting.layer),
        "capture of three layers": lambda: run.captured(hold, *setting.three),
        "capture of one layer, to the host": lambda: run.captured(to_host, setting.layer),
        "capture of three layers, to the host": lambda: run.captured(to_host, *setting.three),
    }
    costs = _costs(ways, held, device=device, repeats=repeats)
    seconds = {way: cost.seconds for way, cost in costs.items()}
    plain = seconds["two branches"]
    return {
        "size": setting.size,
        "tokens": [run.grid.num_latent_frames, run.grid.rows, run.grid.cols],
        "counts": [backbone.num_layers, backbone.num_heads, backbone.num_channels],
        "weights_gb": sum(weight.numel() * weight.itemsize for weight in transformer.parameters()) / 1e9,
        "build_seconds": built - started,
        "layer": setting.layer,
        "three_layers": setting.three,
        "output_is_the_same_tapped": run.is_the_same_tapped(),
        "costs": {way: asdict(cost) for way, cost in costs.items()},
        "tapping_overhead": seconds["one branch, three layers tapped, all run"] / seconds["one branch"] - 1,
        "capture_overhead": seconds["capture of one layer"] / seconds["one branch, cut off after the layer"] - 1,
        "extraction_is_faster_than_two_branches": plain / seconds["capture of one layer"],
        "extraction_to_the_host_is_faster_than_two_branches": plain / seconds["capture of one layer, to the host"],
        "batched": setting.batched,
        "matches_as_in_guided_sampling": run.agreement(setting.layer, batched=setting.batched),
        "matches_as_in_a_batch_of_two": run.agreement(setting.layer, batched=True),
    }


def _costs(
    ways: dict[str, Callable[[], None]], held: list[LayerDescriptors], *, device: str, repeats: int
) -> dict[str, Cost]:
    """Run each way once untimed, then all of them in turns."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    peaks = dict.fromkeys(ways, 0)
    for turn in range(repeats + 1):
        for way, forward in ways.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            forward()
            _wait(device)
            if turn:
                times[way].append(time.perf_counter() - started)
            held.clear()
            if device == "cuda":
                peaks[way] = max(peaks[way], torch.cuda.max_memory_allocated())
    return {way: Cost(statistics.median(took), min(took), peaks[way] / 1e9) for way, took in times.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


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
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU ({platform.machine()})",
        "dtype": "bfloat16",
        "tiny": choices.tiny,
        "repeats": choices.repeats,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{package.__name__: package.__version__ for package in (torch, diffusers, transformers)},
        },
        "results": {},
    }
    print(f"{report['device']}, {report['versions']}", flush=True)
    choices.out.parent.mkdir(parents=True, exist_ok=True)
    for name in choices.names:
        setting = SETTINGS[name]
        if choices.tiny:
            setting = replace(setting, size=TINY_SIZE, layer=TINY_LAYERS[1], three=TINY_LAYERS)
        started = time.perf_counter()
        result = measure(name, setting, tiny=choices.tiny, device=device, repeats=choices.repeats)
        report["results"][name] = {**result, "total_seconds": time.perf_counter() - started}
        _show(name, report["results"][name])
        choices.out.write_text(json.dumps(report, indent=2) + "\n")
        gc.collect()
        torch.cuda.empty_cache()


def _show(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: {result['size']}, {result['counts']} layers x heads x channels, tokens {result['tokens']}")
    print(f"  {result['weights_gb']:.2f} GB of weights made in {result['build_seconds']:.1f} s")
    for way, cost in result["costs"].items():
        print(f"  {way:<44}{1000 * cost['seconds']:9.1f} ms{cost['peak_gb']:8.1f} GB")
    same = "bit-equal" if result["output_is_the_same_tapped"] else "DIFFERENT"
    print(f"  the output with all layers tapped is {same}")
    print(f"  tapping costs {result['tapping_overhead']:.1%} of a forward (wanted: 3 % at most)")
    layer = result["layer"]
    print(f"  capture of layer {layer} costs {result['capture_overhead']:.1%} of a forward cut off there")
    kept = result["extraction_is_faster_than_two_branches"]
    sent = result["extraction_to_the_host_is_faster_than_two_branches"]
    print(f"  tracking extraction from layer {layer}: {kept:.2f} x faster than a plain two-branch forward")
    print(f"  (wanted: 3.2 for layer 17 of CogVideoX-2B); with queries and keys on the host, {sent:.2f} x")
    guided, batch = result["matches_as_in_guided_sampling"], result["matches_as_in_a_batch_of_two"]
    print(f"  {guided:.2%} of matches as in guided sampling (wanted: 99 %), {batch:.2%} as in a batch of two")
    print(f"  {result['total_seconds']:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
