"""Zero-shot tracking: what each choice is worth, on clips that decided none of them, and what tracking costs.

    python -m benchmarks.tracking study [--clips 32] [--tapvid FILE]     the table, on clips of the role `eval`
    python -m benchmarks.tracking tune [--clips 12]                      the choice of the defaults, role `tune`
    python -m benchmarks.tracking heads [--clips 12]                     the choice of heads alone: a third of the time
    python -m benchmarks.tracking speed [--device cuda] [--frames 80]    seconds per clip at CogVideoX-2B's shape

The shipped backbone runs once over each clip, and everything else reads the same descriptors. It sees clips at 160x240;
`--size` sets another size. Rendered clips have 17 frames of 128x192, half of them object clips and half camera moves, a
10x10 grid of queries in frame 0 (only on objects in object clips) and exact truth with occlusions. `study` also uses
queries in every fifth frame (TAP-Vid's `strided` protocol), whose tracks lead backward, too. Metrics are TAP-Vid's at
256x256, means over clips. Results go to benchmarks/results/tracking_*.json. `--processes` divides the clips among
processes of one thread each.
"""

import argparse
import json
import multiprocessing
import pickle
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from rich.progress import track

from benchmarks.matching import machine
from difftrack.annotation import LucasKanadeParams, lucas_kanade, query_grid
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.datasets import (
    Clip,
    QueryMode,
    TrackedVideo,
    Tracks,
    load_tapvid_pickle,
    tapvid_queries,
    working_frames,
)
from difftrack.extraction import Extractor, ModeParams, TrackingViewParams
from difftrack.geometry import TokenGrid, rescale_points
from difftrack.metrics import survival_rate, tapvid_metrics
from difftrack.rendering import RenderSpec, exact_tracks, on_object, render_clip
from difftrack.store import DescriptorSpec, clip_group, create_group, open_store
from difftrack.tracking import (
    ChunkDescriptors,
    PredictedTracks,
    TrackParams,
    VisibilityParams,
    no_motion,
    select_heads,
    stored_chunks,
    track_clip,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RENDERED_SIZE = (128, 192)
STEP, NUM_STEPS = 49, 50
SPLITS: tuple[Literal["easy", "hard"], ...] = ("easy", "hard")
FIRST_SEEDS = {"eval": 700_000, "tune": 710_000}
EVALUATED_SIZE = (256, 256)

Scores = dict[str, float]
Tracker = Callable[["Case"], PredictedTracks]
Video = tuple[str, TrackedVideo]
"""A clip with the name of its set of clips."""


@dataclass(frozen=True)
class Result:
    """The scores of all trackers on one clip."""

    split: str
    clip: str
    scores: Mapping[str, Scores]
    """Metrics by tracker."""
    seconds: Mapping[str, float]
    """Seconds by tracker, and of the extraction."""


@dataclass(frozen=True)
class Case:
    """A clip, its truth, and what the backbone made of it, all of it in pixels of the size that the backbone saw."""

    clip: Clip
    truth: Tracks
    queries: np.ndarray
    chunks: Sequence[ChunkDescriptors]
    latents: Sequence[ChunkDescriptors]
    """The clean latents that a token covers, as a feature."""
    grid: TokenGrid
    size: tuple[int, int]
    """Size of the backbone's input."""
    original: TrackedVideo
    """The clip and its truth at their own size."""
    seconds: float
    """Seconds to encode the frames and to run the backbone over the chunks."""
    query_mode: QueryMode = "first"
    """Whether to evaluate the frames after the query, or all except the query's."""


WITH_HEADS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "temperature 2.0": {"matching": replace(TrackParams().matching, temperature=2.0)},
    "temperature 4.0": {"matching": replace(TrackParams().matching, temperature=4.0)},
    "matches 3": {"matches_per_token": 3},
    "motion costs 0.3": {"motion_cost": 0.3},
}
"""What `heads` tries once heads are chosen: options that help when all heads are used."""


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function, clips in (("study", study, 32), ("tune", tune, 12), ("heads", tune_heads, 12)):
        command = commands.add_parser(name)
        command.add_argument("--clips", type=int, default=clips, help="per split")
        command.add_argument("--tapvid", type=Path, nargs="*", default=[], help="pickles of real video")
        command.add_argument("--layers", type=int, nargs="+", default=[6, 7], help="best first")
        command.add_argument("--heads", nargs="*", metavar="LAYER.HEAD", help="in place of those of params.yaml")
        command.add_argument("--size", type=_size, default=(160, 240), metavar="HxW", help="that the backbone sees")
        command.add_argument("--chunk-len", type=int, default=9, help="frames that it sees at a time")
        command.add_argument("--backbone", default=str(shipped_backbone()))
        command.add_argument("--device", default="auto")
        command.add_argument("--processes", type=int, default=1, help="that share the clips")
        command.set_defaults(run=function)
    command = commands.add_parser("speed")
    command.add_argument("--device", default="cpu")
    command.add_argument("--frames", type=int, default=80)
    command.add_argument("--heads", type=int, default=30)
    command.add_argument("--points", type=int, nargs="+", default=[24, 400])
    command.set_defaults(run=speed)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    arguments.run(arguments)


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


# ablation


def study(arguments: argparse.Namespace) -> None:
    """Run every tracker on rendered clips of the role `eval`, and on real ones."""
    named = heads_of_params() if arguments.heads is None else arguments.heads
    heads = [(int(layer), int(head)) for layer, head in (pair.split(".") for pair in named)]
    found = list(_each_video(partial(_study_video, arguments, heads), arguments, "eval"))
    results, strided = summary([once for once, _ in found]), summary([again for _, again in found])
    about = {
        "machine": machine(_device_of(arguments)),
        "backbone": _backbone_of(arguments.backbone, arguments.device).fingerprint,
        "layers": arguments.layers,
        "heads": named,
        "size": arguments.size,
        "chunk_len": arguments.chunk_len,
        "clips_per_split": arguments.clips,
        "first_seed": FIRST_SEEDS["eval"],
    }
    height, width = arguments.size
    _write(f"tracking_study_{height}x{width}", {**about, **results, "strided": strided})
    print_table(results["means"])
    print("queries in every fifth frame, all other frames evaluated")
    print_table(strided["means"])


def _study_video(
    arguments: argparse.Namespace, heads: Sequence[tuple[int, int]], video: Video
) -> tuple[Result, Result]:
    """Queries of frame 0, and those of every fifth frame."""
    split, case = _case_of(arguments, video)
    once = evaluate(split, case, ablation(arguments.layers, heads))
    return once, evaluate(split, ask_again(case), both_ways(arguments.layers, heads))


def heads_of_params(path: Path = ROOT / "params.yaml") -> list[str]:
    """The heads of params.yaml in the form of `--heads`; empty if it names none."""
    heads = yaml.safe_load(path.read_text(encoding="utf-8"))["track"]["heads"]
    return [f"{layer}.{head}" for layer, own in heads.items() for head in own] if isinstance(heads, dict) else []


def ablation(layers: Sequence[int], heads: Sequence[tuple[int, int]]) -> dict[str, Tracker]:
    """The rows of the table: baselines first; from the released convention on, each row changes the one above it."""
    best = tuple(layers[:1])
    default, released = TrackParams(layers=best), TrackParams(convention="released", layers=best)
    plain = replace(released.matching, second_softmax=False, temperature="root_channel")
    precise = replace(released, matching=plain, overlap="average")
    unseen = VisibilityParams(predict=False)
    argmax = replace(default.matching, read_out="rows", window_radius=0)
    corrected = replace(default, matching=argmax, motion_cost=0.0, smoothing_radius=0, visibility=unseen)
    seen = replace(corrected, visibility=VisibilityParams())
    soft = replace(seen, matching=replace(default.matching, read_out="rows"))
    moved = replace(seen, matching=replace(default.matching, support_radius=1))
    wide = replace(seen, matching=default.matching)
    steady = replace(wide, motion_cost=default.motion_cost)
    smooth = replace(steady, smoothing_radius=default.smoothing_radius, smoothing_limit_token=1e9)
    limited = replace(steady, smoothing_radius=default.smoothing_radius)
    fused = replace(limited, layers=tuple(layers))
    rows: dict[str, Tracker] = {
        "no motion": still,
        "pyramidal Lucas-Kanade": follow,
        "the same at the backbone's size": follow_resized,
        "cosine of latents": of_latents,
        "released": partial(of_descriptors, params=released),
        "one softmax, the model's own temperature": partial(of_descriptors, params=precise),
        "pixels and tokens as they lie": partial(of_descriptors, params=corrected),
        "visibility by its probability": partial(of_descriptors, params=seen),
        "soft-argmax over 3x3 tokens": partial(of_descriptors, params=soft),
        "displacements of 4 tokens that agree": partial(of_descriptors, params=moved),
        "displacements of up to 16": partial(of_descriptors, params=wide),
        "the likeliest path among them": partial(of_descriptors, params=steady),
        "smoothing over 5 frames": partial(of_descriptors, params=smooth),
        "smoothing with its limit": partial(of_descriptors, params=limited),
    }
    if len(layers) > 1:
        rows[f"layers {', '.join(map(str, layers))} fused"] = partial(of_descriptors, params=fused)
    if heads:
        for count in range(min(2, len(heads)), len(heads) + 1):
            named = ", ".join(f"{layer}.{head}" for layer, head in heads[:count])
            rows[f"heads {named} alone"] = partial(of_heads, params=fused, heads=heads[:count])
        three = replace(fused, matches_per_token=3)
        rows["three matches of each token"] = partial(of_heads, params=three, heads=heads)
    rows["default, features"] = partial(of_descriptors, params=replace(limited, kind="feature", heads="all"))
    return rows


def both_ways(layers: Sequence[int], heads: Sequence[tuple[int, int]]) -> dict[str, Tracker]:
    """What it is worth to track queries of later frames backward."""
    fused = TrackParams(layers=tuple(layers))
    default = partial(of_heads, params=fused, heads=heads) if heads else partial(of_descriptors, params=fused)
    released = TrackParams(convention="released", layers=tuple(layers[:1]))
    return {
        "no motion": still,
        "pyramidal Lucas-Kanade": follow,
        "the same at the backbone's size": follow_resized,
        "released, queries of frame 0 alone": lambda case: from_first_frame(case, of_descriptors(case, released)),
        "default, queries of frame 0 alone": lambda case: from_first_frame(case, default(case)),
        "default, forward alone": lambda case: forward_alone(case, default(case)),
        "default": default,
    }


def tune(arguments: argparse.Namespace) -> None:
    """Tune every number, one at a time around the default, on tuning clips; and choose the heads."""
    found = list(_each_video(partial(_tune_video, arguments), arguments, "tune"))
    results = summary([result for _, _, result in found])
    print_table(results["means"])
    chosen, worths = _choose_heads([(split, case) for split, case, _ in found], _untuned(arguments))
    _write("tracking_tuning", {**_about_tuning(arguments), "heads": chosen, "worths": worths, **results})


def _tune_video(arguments: argparse.Namespace, video: Video) -> tuple[str, Case, Result]:
    changes = {"default": {}, **_changes(arguments.layers)}
    trackers: dict[str, Tracker] = {
        name: partial(of_descriptors, params=replace(_untuned(arguments), **change)) for name, change in changes.items()
    }
    for window in (9, 15, 21, 31):
        for levels in (2, 3, 4):
            trackers[f"Lucas-Kanade {window} px, {levels} levels"] = partial(
                follow, params=LucasKanadeParams(window_px=window, levels=levels)
            )
    split, case = _case_of(arguments, video)
    return split, case, evaluate(split, case, trackers)


def _untuned(arguments: argparse.Namespace) -> TrackParams:
    """The default, with every head of the layers."""
    return TrackParams(layers=tuple(arguments.layers))


def tune_heads(arguments: argparse.Namespace) -> None:
    """Choose heads on tuning clips, and measure some options with them: what has to be done for new weights."""
    held = list(_each_video(partial(_case_of, arguments), arguments, "tune"))
    chosen, worths = _choose_heads(held, _untuned(arguments))
    with_heads = {
        name: _worth([case for _, case in held], replace(_untuned(arguments), **change), {}, chosen)
        for name, change in WITH_HEADS.items()
    }
    print("delta_avg with these heads:", with_heads)
    _write("tracking_heads", {**_about_tuning(arguments), "heads": chosen, "worths": worths, "with_heads": with_heads})


def _choose_heads(
    held: Sequence[tuple[str, Case]], default: TrackParams
) -> tuple[Sequence[tuple[int, int]], dict[str, float]]:
    """Choose greedily by delta_avg; also return what every set of heads on the way is worth, by their names."""
    worths: dict[str, float] = {}
    assert isinstance(default.layers, tuple)
    candidates = [(layer, head) for layer in default.layers for head in range(_num_heads(held[0][1]))]
    chosen = select_heads(partial(_worth, [case for _, case in held], default, worths), candidates, min_gain=0.001)
    print("heads, chosen greedily by delta_avg:", chosen)
    return chosen, worths


def _about_tuning(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": machine(_device_of(arguments)),
        "backbone": _backbone_of(arguments.backbone, arguments.device).fingerprint,
        "layers": arguments.layers,
        "size": arguments.size,
        "chunk_len": arguments.chunk_len,
        "first_seed": FIRST_SEEDS["tune"],
        "clips_per_split": arguments.clips,
    }


def _changes(layers: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Alternatives to the defaults, by name."""
    windows = {
        f"{read_out}, window {radius}, {temperature}": {
            "read_out": read_out,
            "window_radius": radius,
            "window_temperature": temperature,
        }
        for read_out in ("rows", "displacements")
        for radius in (0, 1, 2)
        for temperature in ((0.5, 0.7, 1.0) if radius else (1.0,))
    }
    matching: dict[str, dict[str, Any]] = windows | {
        **{f"support {radius}": {"support_radius": radius} for radius in (1, 3)},
        **{f"agreement {token}": {"support_agreement_token": token} for token in (1.0, 2.0)},
        **{f"temperature {divisor}": {"temperature": divisor} for divisor in (2.0, 4.0, 16.0)},
        "one direction": {"directions": "forward"},
    }
    visibility = {f"confidence {least}": VisibilityParams(min_confidence=least) for least in (0.3, 0.4, 0.6, 0.7)}
    visibility |= {f"cycle {token}": VisibilityParams(max_cycle_error_token=token) for token in (1.0, 1.5, 3.0, 4.0)}
    visibility |= {f"margin {margin}": VisibilityParams(min_margin=margin) for margin in (0.1, 0.3)}
    return {
        **{name: {"matching": replace(TrackParams().matching, **change)} for name, change in matching.items()},
        **{name: {"visibility": change} for name, change in visibility.items()},
        **{f"motion costs {cost:g}": {"motion_cost": cost} for cost in (0.0, 0.3, 1.0)},
        **{f"motion of up to {token:g}": {"motion_limit_token": token} for token in (3.0, 8.0)},
        **{f"matches {number}": {"matches_per_token": number} for number in (2, 3)},
        **{f"smoothing {radius}": {"smoothing_radius": radius} for radius in (0, 1, 3)},
        **{f"smoothing limit {token:g}": {"smoothing_limit_token": token} for token in (0.15, 0.25, 0.5, 1e9)},
        **{f"layer {layer}": {"layers": (layer,)} for layer in layers},
    }


def _worth(
    cases: Sequence[Case], params: TrackParams, worths: dict[str, float], heads: Sequence[tuple[int, int]]
) -> float:
    """Mean delta_avg over clips; remembered under the heads' names."""
    worth = float(np.nanmean([score(of_heads(case, params, heads), case)["delta_avg"] for case in cases]))
    worths[" ".join(f"{layer}.{head}" for layer, head in heads)] = worth
    return worth


def _num_heads(case: Case) -> int:
    heads = case.chunks[0].heads
    return len(heads) if heads is not None else 0


def _each_video(
    function: Callable[[Video], Any], arguments: argparse.Namespace, role: Literal["eval", "tune"]
) -> Iterator[Any]:
    """Call a function with every clip in several processes; results come in the order of the clips."""
    sets: dict[str, Iterator[TrackedVideo]] = {split: rendered(role, split, arguments.clips) for split in SPLITS}
    sets |= {path.stem: load_tapvid_pickle(path) for path in arguments.tapvid}
    videos = [(name, video) for name, own in sets.items() for video in own]
    watched = partial(track, description="clips", total=len(videos))
    if arguments.processes == 1:
        yield from watched(map(function, videos))
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=fresh, initializer=_start_worker) as pool:
        yield from map(pickle.loads, watched(pool.map(partial(_pickled, function), videos)))


def _start_worker() -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)


def _pickled(function: Callable[[Video], Any], video: Video) -> bytes:
    """Descriptors as bytes: tensors would go through shared memory, which may be small."""
    return pickle.dumps(function(video))


def _case_of(arguments: argparse.Namespace, video: Video) -> tuple[str, Case]:
    split, clip = video
    backbone, chunks = _backbone_of(arguments.backbone, arguments.device), ChunkParams(chunk_len=arguments.chunk_len)
    return split, prepare(backbone, clip, arguments.layers, arguments.size, chunks)


@cache
def _backbone_of(folder: str, device: str) -> Backbone:
    return load_backbone(f"path:{folder}", ModelParams(device=device))


def _device_of(arguments: argparse.Namespace) -> str:
    """The device of the backbone, by the name that `machine` takes."""
    if arguments.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(arguments.device).partition(":")[0]


def evaluate(split: str, case: Case, trackers: Mapping[str, Tracker]) -> Result:
    """Run every tracker on one clip."""
    scores: dict[str, Scores] = {}
    seconds = {"extraction": case.seconds}
    for name, tracker in trackers.items():
        started = time.perf_counter()
        scores[name] = score(tracker(case), case)
        seconds[name] = time.perf_counter() - started
    return Result(split, case.clip.name, scores, seconds)


def summary(results: Iterable[Result]) -> dict[str, Any]:
    """Means over each set of clips, and each clip."""
    found: dict[str, dict[str, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    names: dict[str, list[str]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for result in results:
        names[result.split].append(result.clip)
        for name, scores in result.scores.items():
            found[result.split][name].append(scores)
        for name, own in result.seconds.items():
            seconds[name].append(own)
    return {
        "means": {split: {name: _mean(scores) for name, scores in own.items()} for split, own in found.items()},
        "clips": {split: {"names": names[split], **own} for split, own in found.items()},
        "seconds_per_clip": {name: float(np.mean(own)) for name, own in seconds.items()},
    }


def rendered(
    role: Literal["eval", "tune"], split: Literal["easy", "hard"], count: int, *, first: int = 0
) -> Iterator[TrackedVideo]:
    """Clips with exact tracks, object clips and camera moves in turn, starting at the number `first`."""
    height, width = RENDERED_SIZE
    for number in range(first, count):
        spec = RenderSpec(
            seed=FIRST_SEEDS[role] + number,
            role=role,
            kind="scene" if number % 2 else "object",
            split=split,
            num_frames=17,
            height=height,
            width=width,
        )
        queries = query_grid(height, width, 10)
        if spec.kind == "object" and (on := on_object(spec, queries[:, 1:].astype(np.float64))).any():
            queries = queries[on]
        points, visible = exact_tracks(spec, queries)
        shown = render_clip(spec)
        clip = Clip(f"{split}-{spec.seed}", shown.frames, 8.0, shown.prompt, "rendered")
        yield TrackedVideo(clip, Tracks(points.astype(np.float32), visible, queries, height, width, "exact"))


def prepare(
    backbone: Backbone, video: TrackedVideo, layers: Sequence[int], size: tuple[int, int], chunk_params: ChunkParams
) -> Case:
    """Run the backbone over a clip's chunks as the pipeline's tracking view does, and hold the descriptors."""
    if not video.tracks.truth.known:
        raise ValueError(f"{video.clip.name}: {video.tracks.truth} is no truth to compare trackers with")
    height, width = size
    params = TrackingViewParams(
        height=height,
        width=width,
        num_inference_steps=NUM_STEPS,
        steps=(STEP,),
        layers=tuple(sorted(layers)),
        descriptors=("query", "key", "feature"),
        mode=ModeParams(rendered="clean", generated="clean", folder="clean"),
    )
    schedule = chunk_schedule(video.clip.num_frames, chunk_params)
    started = time.perf_counter()
    extraction = Extractor(backbone, params).prepare(video.clip, chunks=schedule)
    chunks, latents = [], []
    for group, spec in extraction.groups.items():
        units = {(unit.step, unit.layer): unit.tensors for unit in _captured(extraction, group, spec)}
        chunks.append(ChunkDescriptors(spec.frames, partial(_read, units), spec.heads))
    seconds = time.perf_counter() - started
    grid = next(iter(extraction.groups.values())).grid
    frames = working_frames(video.clip.frames, height=height, width=width).astype(np.uint8)
    tokens = _latent_tokens(backbone, frames)
    for spec in extraction.groups.values():
        own = tokens[:, list(spec.frames)]
        latents.append(ChunkDescriptors(spec.frames, partial(_same, own), None))
    truth = _rescaled(video.tracks, size)
    clip = replace(video.clip, frames=frames)
    return Case(clip, truth, truth.query_points, chunks, latents, grid, size, video, seconds)


def _captured(extraction: Any, group: str, spec: DescriptorSpec) -> list[Any]:  # noqa: ANN401
    units: list[Any] = []
    extraction.run(extraction.plan(group), units.append)
    return units


def _read(units: Mapping[tuple[int, int], Mapping[str, torch.Tensor]], step: int, layer: int) -> Any:  # noqa: ANN401
    of = units[step, layer]
    return of["query"], of["key"]


def _same(tokens: torch.Tensor, step: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens, tokens


def _latent_tokens(backbone: Backbone, frames: np.ndarray) -> torch.Tensor:
    """[1, frame, row, col, channel] of clean latents; the patch's pixels of a token are concatenated."""
    latents, patch = backbone.encode(frames, frames_alone=True), backbone.patch_size
    tokens = latents.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3)
    return tokens[None].float()


def ask_again(case: Case) -> Case:
    """The same clip with TAP-Vid's strided queries."""
    tracks = case.original.tracks
    queries, of = tapvid_queries(tracks.points_xy_px.swapaxes(0, 1), ~tracks.visible.T, mode="strided")
    asked = replace(
        tracks, points_xy_px=tracks.points_xy_px[:, of], visible=tracks.visible[:, of], query_points=queries
    )
    truth = _rescaled(asked, case.size)
    original = TrackedVideo(case.original.clip, asked)
    return replace(case, original=original, truth=truth, queries=truth.query_points, query_mode="strided")


def _rescaled(tracks: Tracks, size: tuple[int, int]) -> Tracks:
    height, width = size
    sizes = {"from_size": (tracks.height, tracks.width), "to_size": size}
    queries = tracks.query_points.copy()
    queries[:, 1:] = rescale_points(queries[:, 1:], **sizes)
    points = rescale_points(tracks.points_xy_px, **sizes)
    return Tracks(points.astype(np.float32), tracks.visible, queries, height, width, tracks.tracker)


# trackers


def still(case: Case) -> PredictedTracks:
    """Points stay where they are queried."""
    return no_motion(case.queries, num_frames=case.truth.num_frames)


def from_first_frame(case: Case, tracks: PredictedTracks) -> PredictedTracks:
    """Let queries of later frames stay where they are, visible only in their own frame, as if they were not tracked."""
    return _where(case, tracks, np.broadcast_to(case.queries[:, 0] == 0, tracks.visible.shape))


def forward_alone(case: Case, tracks: PredictedTracks) -> PredictedTracks:
    """The same for the frames before each query."""
    return _where(case, tracks, np.arange(len(tracks.visible))[:, None] >= case.queries[:, 0])


def _where(case: Case, tracks: PredictedTracks, followed: np.ndarray) -> PredictedTracks:
    own_frame = np.arange(len(tracks.visible))[:, None] == case.queries[:, 0]
    return PredictedTracks(
        np.where(followed[..., None], tracks.points_xy_px, still(case).points_xy_px),
        np.where(followed, tracks.visible, own_frame),
        np.where(followed, tracks.confidence, own_frame).astype(np.float32),
    )


def follow(case: Case, params: LucasKanadeParams | None = None) -> PredictedTracks:
    """Pyramidal Lucas-Kanade from frame to frame, on the clip at its own size."""
    clip, queries = case.original.clip, case.original.tracks.query_points
    flow = lucas_kanade(clip.frames, queries, params or LucasKanadeParams())
    tracks = PredictedTracks(flow.points_xy_px, flow.visible, flow.visible.astype(np.float32))
    return tracks.rescaled(from_size=(clip.height, clip.width), to_size=case.size)


def follow_resized(case: Case) -> PredictedTracks:
    """Pyramidal Lucas-Kanade on the backbone's input frames."""
    flow = lucas_kanade(case.clip.frames, case.queries, LucasKanadeParams())
    return PredictedTracks(flow.points_xy_px, flow.visible, flow.visible.astype(np.float32))


def of_descriptors(case: Case, params: TrackParams) -> PredictedTracks:
    """The tracker with given params."""
    layers = params.layers if isinstance(params.layers, tuple) else ()
    sources = [(STEP, layer) for layer in layers]
    return track_clip(case.chunks, case.queries, sources=sources, grid=case.grid, params=params)


def of_heads(case: Case, params: TrackParams, heads: Sequence[tuple[int, int]]) -> PredictedTracks:
    """The tracker with these (layer, head) pairs only; layers weigh the same, and so do heads within a layer."""
    weights = {
        layer: tuple(float((layer, head) in heads) for head in range(_num_heads(case)))
        for layer in sorted({layer for layer, _ in heads})
    }
    return of_descriptors(case, replace(params, layers=tuple(weights), head_weights=weights))


def of_latents(case: Case) -> PredictedTracks:
    """The tracker on the backbone's input latents."""
    params = TrackParams(kind="feature")
    return track_clip(case.latents, case.queries, sources=[(STEP, 0)], grid=case.grid, params=params)


def score(tracks: PredictedTracks, case: Case) -> Scores:
    """TAP-Vid's metrics at 256x256."""
    sizes = {"from_size": case.size, "to_size": EVALUATED_SIZE}
    predicted, true = rescale_points(tracks.points_xy_px, **sizes), rescale_points(case.truth.points_xy_px, **sizes)
    frames = case.queries[:, 0].astype(np.int64)
    metrics = tapvid_metrics(predicted, tracks.visible, true, case.truth.visible, frames, query_mode=case.query_mode)
    within = {f"delta_{px}": float(value) for px, value in zip((1, 2, 4, 8, 16), metrics.points_within, strict=True)}
    return {
        "delta_avg": float(metrics.average_points_within),
        "AJ": float(metrics.average_jaccard),
        "OA": float(metrics.occlusion_accuracy),
        **within,
        "survival": survival_rate(predicted, true, case.truth.visible, frames),
    }


def _mean(scores: Sequence[Scores]) -> Scores:
    return {name: float(np.nanmean([of[name] for of in scores])) for name in scores[0]}


# speed


def speed(arguments: argparse.Namespace) -> None:
    """Seconds to track a clip of CogVideoX-2B's shape from descriptors in memory, and to read them from a store."""
    device, num_heads = arguments.device, arguments.heads
    grid = TokenGrid(num_latent_frames=13, rows=30, cols=45, stride_px=16, temporal_stride=1)
    schedule = chunk_schedule(arguments.frames, ChunkParams())
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    chunks = []
    for frames in schedule:
        shape = (2, num_heads, len(frames), grid.rows, grid.cols, 64)
        query, key = torch.randn(shape, generator=generator, device=device).to(dtype)
        chunks.append(ChunkDescriptors(frames, partial(_pair, query, key)))
    results: dict[str, Any] = {"machine": machine(device), "frames": arguments.frames, "chunks": len(chunks)}
    results |= {"heads": num_heads, "dtype": str(dtype), "seconds": {}}
    for count in arguments.points:
        xy = np.random.default_rng(count).uniform((0, 0), (720, 480), (count, 2))
        queries = np.insert(xy, 0, 0, axis=1).astype(np.float32)
        ways = {"default": TrackParams(), "released": TrackParams(convention="released")}
        for name, params in ways.items():
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                track_clip(chunks, queries, sources=[(49, 17)], grid=grid, params=params)
                seconds.append(time.perf_counter() - started)
            results["seconds"][f"{count} points, {name}"] = min(seconds)
            print(f"{count} points, {name}: {min(seconds):.3f} s")
    results["seconds"]["reading from the store"] = _reading_seconds(schedule, grid, num_heads, device)
    print(json.dumps(results["seconds"], indent=1))
    _write(f"tracking_speed_{device.partition(':')[0]}", results)


def _pair(query: torch.Tensor, key: torch.Tensor, step: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    return query, key


def _reading_seconds(schedule: Sequence[tuple[int, ...]], grid: TokenGrid, num_heads: int, device: str) -> float:
    """Write the chunks of one clip, and read them onto the device; the page cache is warm."""
    values = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, frames in enumerate(schedule):
            spec = _stored_spec(frames, grid, num_heads)
            writer = create_group(folder, clip_group("clip", number), spec)
            shape = (num_heads, len(frames), grid.rows, grid.cols, 64)
            arrays = {kind: values.standard_normal(shape, dtype=np.float32) for kind in ("query", "key")}
            writer.write(49, 17, arrays)
            writer.finish()
        started = time.perf_counter()
        for chunk in stored_chunks(open_store(folder), "clip", device=device)[0]:
            chunk.read(49, 17)
        return time.perf_counter() - started


def _stored_spec(frames: tuple[int, ...], grid: TokenGrid, num_heads: int) -> DescriptorSpec:
    size = (grid.height, grid.width)
    return DescriptorSpec(
        steps=(49,),
        timesteps=(19.0,),
        layers=(17,),
        heads=tuple(range(num_heads)),
        num_channels=64,
        grid=replace(grid, num_latent_frames=len(frames)),
        frames=frames,
        clip_size=size,
        size=size,
        kinds=("query", "key"),
    )


# output


def print_table(means: Mapping[str, Mapping[str, Scores]]) -> None:
    """delta_avg / AJ / OA in percent, one column per set of clips."""
    print(f"{'':42}" + "".join(f"{split:>22}" for split in means))
    for name in next(iter(means.values())):
        cells = [" / ".join(f"{100 * of[name][key]:.1f}" for key in ("delta_avg", "AJ", "OA")) for of in means.values()]
        print(f"{name:42}" + "".join(f"{cell:>22}" for cell in cells))


def _write(name: str, results: Mapping[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
