"""What cross-attention guidance does to videos, and what it costs.

    python -m benchmarks.guidance study --prompts data/prompts/mini.txt --num-prompts 20
    python -m benchmarks.guidance speed --shape cogvideox-2b --device cuda
    python -m benchmarks.guidance vbench --samples data/guidance-study --executable /path/to/vbench

`study` samples every prompt without guidance, guided by the best layers of a ranking and guided by its worst, from one
seed. It keeps the samples, so a stopped run continues when it is started again. It writes measures with their intervals
and side-by-side videos to benchmarks/results/guidance_study/. `speed` times the transformer's part of one sampling step
with random weights; nothing is downloaded. `vbench` scores the study's videos, if VBench is installed.
"""

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from rich.progress import track
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from difftrack.backbones import AttentionCall, ModelParams, intercept, load_backbone, shipped_backbone
from difftrack.guidance import (
    Guidance,
    GuideParams,
    SequenceLayout,
    Variant,
    guide_transformer,
    read_ranking,
    sample_prompts,
)
from difftrack.keeping import Keeper
from difftrack.prompts import read_prompts
from difftrack.quality import VBENCH_DIMENSIONS, mean_with_interval, vbench_scores

RESULTS = Path(__file__).parent / "results"
STUDY = RESULTS / "guidance_study"
SAMPLES = Path("data/guidance-study")
BEST_LAYERS = Path("data/scores/cogvideox-mini/best_layers.json")


@dataclass(frozen=True)
class Shape:
    """A CogVideoX transformer and the size of its clip."""

    config: dict[str, Any]
    latents: tuple[int, int, int]
    """Number of latent frames, rows and columns."""
    layers: tuple[int, ...]
    """The layers that the paper perturbs."""

    @property
    def layout(self) -> SequenceLayout:
        """2 x 2 latent pixels make a token."""
        frames, rows, cols = self.latents
        return SequenceLayout(frames, rows * cols // 4, "first")


SHAPES = {
    "cogvideox-2b": Shape({}, (13, 60, 90), (13, 17, 21)),
    "cogvideox-5b": Shape(
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        (13, 60, 90),
        (15, 17, 18),
    ),
    "tiny": Shape(
        {"num_attention_heads": 2, "num_layers": 6, "text_embed_dim": 32, "max_text_seq_length": 24},
        (5, 16, 24),
        (2, 3),
    ),
}


def study(arguments: argparse.Namespace) -> None:
    """Sample, measure, and keep the videos."""
    params = GuideParams(
        backbone="cogvideox-mini",
        prompts=arguments.prompts,
        num_inference_steps=arguments.steps,
        scale=arguments.scale,
        variant=arguments.variant,
        num_best_layers=arguments.num_layers,
    )
    ranking, n = read_ranking(arguments.best_layers), arguments.num_layers
    layers = {"best_layers": ranking[:n], "worst_layers": ranking[-n:]}
    ways = {"plain": None, **{way: params.guidance(sorted(chosen)) for way, chosen in layers.items()}}
    prompts = read_prompts(arguments.prompts)[: arguments.num_prompts]
    backbone = load_backbone("cogvideox-mini", ModelParams(path=str(arguments.backbone), device=arguments.device))
    samples: Path = arguments.samples
    keeper = Keeper(samples.with_name(f"{samples.name}.kept"), "samples", budget=params.keep_bytes)
    outcomes = sample_prompts(backbone, prompts, params, ways=ways, folder=samples, keeper=keeper, drop_others=True)
    for outcome in track(outcomes, "sample", total=len(prompts), disable=not sys.stderr.isatty()):
        if outcome.problem is not None:
            raise SystemExit(f"{outcome.prompt!r}: {outcome.problem}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    about = {"params": {**asdict(params), "prompts": str(params.prompts)}, "backbone": backbone.fingerprint}
    measures = json.loads((arguments.samples / "measures.json").read_text())
    (arguments.results / "measures.json").write_text(json.dumps({**about, **measures}, indent=2) + "\n")
    shutil.copy(arguments.samples / "measures.csv", arguments.results)
    for stale in arguments.results.glob("*.mp4"):
        stale.unlink()
    for video in sorted(arguments.samples.glob("*/side_by_side.mp4")):
        shutil.copy(video, arguments.results / f"{video.parent.name}.mp4")
    _print_study(measures)


def _print_study(measures: dict[str, Any]) -> None:
    for way, means in measures["means"].items():
        print(f"{way:13}", "  ".join(f"{name} {value['mean']:.4g}" for name, value in means.items()))
    for way, differences in measures["differences_from_plain"].items():
        print(f"{way} - plain:")
        for name, value in differences.items():
            interval = "" if value["low"] is None else f" [{value['low']:+.4g}, {value['high']:+.4g}]"
            print(f"  {name:15} {value['mean']:+.4g}{interval}")


def vbench(arguments: argparse.Namespace) -> None:
    """Score the study's videos, one run of VBench per way of sampling."""
    means: dict[str, Any] = {}
    ways = json.loads((arguments.samples / "measures.json").read_text())["ways"]
    for way in ways:
        videos = {video.parent.name: video for video in sorted(arguments.samples.glob(f"*/{way}.mp4"))}
        scores = vbench_scores(videos, dimensions=arguments.dimensions, executable=arguments.executable)
        means[way] = {
            name: asdict(mean_with_interval(np.array([*of_videos.values()]))) for name, of_videos in scores.items()
        }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "vbench.json").write_text(json.dumps(means, indent=2) + "\n")


Step = Callable[[], Tensor]
"""The transformer's part of one sampling step: the predictions of both branches."""


def steps_of(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Step]:
    """The ways of running a step, all on the same inputs and weights."""
    torch.manual_seed(0)
    with torch.device(device):
        transformer = CogVideoXTransformer3DModel(**shape.config).to(dtype).eval().requires_grad_(requires_grad=False)
        inputs = _inputs(transformer.config, shape, dtype)
    modules = [block.attn1 for block in transformer.transformer_blocks]

    def predict(**rows: Tensor) -> Tensor:
        with transformer.cache_context("cond_uncond"):
            prediction: Tensor = transformer(**{**inputs, **rows}, return_dict=False)[0]
        return prediction

    def by_hand(attend: Callable[[AttentionCall], Tensor]) -> Step:
        cond = {name: inputs[name][1:] for name in ("hidden_states", "encoder_hidden_states", "timestep")}

        def step() -> Tensor:
            predictions = predict()
            with intercept({layer: modules[layer] for layer in shape.layers}, attend):
                return predictions.float() + (predictions[1:].float() - predict(**cond).float())

        return step

    def ours(variant: Variant, *, reuse: bool) -> Step:
        guidance = Guidance(layers=shape.layers, variant=variant)

        def step() -> Tensor:
            with guide_transformer(transformer, modules, shape.layout, guidance, reuse=reuse):
                return predict()

        return step

    mask = pairs_allowed(shape.layout, inputs["encoder_hidden_states"].shape[1], device)
    return {
        "cfg": predict,
        "zeroed, released: chunks of 128 rows": by_hand(lambda call: zeroed_in_chunks(call, shape.layout)),
        "masked, dense mask": by_hand(lambda call: masked_densely(call, mask)),
        "zeroed, here": ours("zeroed", reuse=True),
        "masked, here": ours("masked", reuse=True),
        "zeroed, here, whole third forward": ours("zeroed", reuse=False),
        "masked, here, whole third forward": ours("masked", reuse=False),
    }


def _inputs(config: Any, shape: Shape, dtype: torch.dtype) -> dict[str, Any]:  # noqa: ANN401
    frames, rows, cols = shape.latents
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(2, frames, config.in_channels, rows, cols, dtype=dtype),
        "encoder_hidden_states": torch.randn(2, config.max_text_seq_length, config.text_embed_dim, dtype=dtype),
        "timestep": torch.tensor([500, 500]),
    }
    if config.use_rotary_positional_embeddings:
        num_tokens = frames * rows * cols // 4
        angles = torch.randn(num_tokens, config.attention_head_dim // 2).repeat_interleave(2, dim=1)
        inputs["image_rotary_emb"] = (angles.cos(), angles.sin())
    return inputs


def pairs_allowed(layout: SequenceLayout, num_text: int, device: str) -> Tensor:
    """Mask of the tokens that a token may attend to, `[token, token]`, text first."""
    frame = torch.arange(layout.num_latent_frames, device=device).repeat_interleave(layout.tokens_per_frame)
    of_token = torch.cat([torch.full((num_text,), -1, device=device), frame])
    return (of_token[:, None] == of_token) | (of_token[:, None] < 0) | (of_token < 0)


def masked_densely(call: AttentionCall, mask: Tensor) -> Tensor:
    """Torch's attention with a mask over pairs that is made once."""
    return scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=mask)


def zeroed_in_chunks(call: AttentionCall, layout: SequenceLayout) -> Tensor:
    """The released code's way: a mask over pairs made in every call, and softmax in chunks of 128 rows."""
    num_text = call.query.shape[2] - layout.num_latent_frames * layout.tokens_per_frame
    mask = pairs_allowed(layout, num_text, str(call.query.device))
    outputs = []
    for start in range(0, call.query.shape[2], 128):
        rows = slice(start, start + 128)
        scores = call.query[:, :, rows] @ call.key.transpose(-1, -2) * call.query.shape[-1] ** -0.5
        outputs.append((scores.softmax(dim=-1) * mask[rows]) @ call.value)
    return torch.cat(outputs, dim=2)


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Peak of torch's memory on the device, in GB, weights included; empty on the CPU, which does not report it."""
    measured: list[float] = []
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    yield measured
    if device.startswith("cuda"):
        measured.append(torch.cuda.max_memory_allocated() / 1e9)


def speed(arguments: argparse.Namespace) -> None:
    """Time every way of running a step, and measure the distance between those that should agree."""
    device, shape = arguments.device, SHAPES[arguments.shape]
    cuda = device.startswith("cuda")
    dtype = torch.bfloat16 if cuda else torch.float32
    rows: dict[str, dict[str, float | None]] = {}
    predictions: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, step in steps_of(shape, device, dtype).items():
            predictions[name] = step().float()
            seconds = []
            with peak_memory(device) as peak:
                for _ in range(arguments.repeats):
                    with torch.cuda.device(device) if cuda else nullcontext():
                        _synchronize(cuda)
                        started = time.perf_counter()
                        step()
                        _synchronize(cuda)
                    seconds.append(time.perf_counter() - started)
            rows[name] = {"seconds": float(np.median(seconds)), "peak_gb": peak[0] if peak else None}
            rows[name] |= _relative(rows[name], rows["cfg"])
            print(f"{name:38}", json.dumps(rows[name]))
    plain = predictions.pop("cfg")
    by_hand = {name.partition(",")[0]: found for name, found in predictions.items() if "here" not in name}
    for name, found in predictions.items():
        wanted = by_hand[name.partition(",")[0]]
        shift = (wanted - plain).norm()
        rows[name]["off_by_hand_one"] = float((found - wanted).norm() / shift)
    processor = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    about = {"shape": arguments.shape, "dtype": str(dtype), "device": processor, "torch": torch.__version__}
    arguments.results.mkdir(parents=True, exist_ok=True)
    file = arguments.results / f"guidance_speed_{arguments.shape}_{device.partition(':')[0]}.json"
    file.write_text(json.dumps({**about, "layers": shape.layers, "steps": rows}, indent=2) + "\n")


def _synchronize(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _relative(row: dict[str, float | None], to: dict[str, float | None]) -> dict[str, float | None]:
    """Seconds and memory as multiples of those of plain guidance."""
    of = {"seconds": "times_cfg", "peak_gb": "memory_times_cfg"}
    return {name: None if to[key] is None else row[key] / to[key] for key, name in of.items()}  # type: ignore[operator]


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("study")
    command.add_argument("--prompts", type=Path, required=True)
    command.add_argument("--num-prompts", type=int)
    command.add_argument("--backbone", type=Path, default=shipped_backbone())
    command.add_argument("--best-layers", type=Path, default=BEST_LAYERS)
    command.add_argument("--num-layers", type=int, default=3)
    command.add_argument("--steps", type=int, default=50)
    command.add_argument("--scale", type=float, default=1.0)
    command.add_argument("--variant", choices=["zeroed", "masked"], default="zeroed")
    command.add_argument("--device", default="auto")
    command.add_argument("--samples", type=Path, default=SAMPLES)
    command.add_argument("--results", type=Path, default=STUDY)
    command.set_defaults(run=study)
    command = commands.add_parser("speed")
    command.add_argument("--shape", choices=list(SHAPES), default="tiny")
    command.add_argument("--device", default="cpu")
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument("--results", type=Path, default=RESULTS)
    command.set_defaults(run=speed)
    command = commands.add_parser("vbench")
    command.add_argument("--samples", type=Path, default=SAMPLES)
    command.add_argument("--dimensions", nargs="+", default=list(VBENCH_DIMENSIONS))
    command.add_argument("--executable", default="vbench")
    command.add_argument("--results", type=Path, default=STUDY)
    command.set_defaults(run=vbench)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
