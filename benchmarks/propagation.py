"""Masks carried through video along descriptors: by kind and layer, against optical flow, and option by option.

    python -m benchmarks.propagation tune [--clips 2]             options, on rendered clips of the role `tune`
    python -m benchmarks.propagation study --davis DIR [--frames 25] [--size 160x240]    the table, on DAVIS 2016
    python -m benchmarks.propagation study --davis DIR --size 256x384 --best-only        only the chosen setting

Rendered clips have 17 frames of 128x192 and exact masks of every object. Half of them are easy and half hard; object
clips and camera moves alternate. Options are tried one at a time around the best setting so far, which J&F decides.
DAVIS decides nothing. The mask of the first frame is given. J and F are DAVIS's, at the size of its frames, in the
first `--frames` frames of each sequence without the first and the last of these. Flow goes from each frame to the one
before and carries the mask's soft labels along, at the size of the frames and at the size of the backbone's input.
Results go to benchmarks/results/propagation_*.json.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from benchmarks.matching import machine
from difftrack.annotation import LucasKanadeParams, lucas_kanade
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.datasets import Clip, MaskedVideo, load_davis, working_frames
from difftrack.extraction import Extractor, ModeParams, TrackingParams
from difftrack.propagation import (
    DescriptorChunk,
    PropagationParams,
    davis_scores,
    mask_labels,
    masks_of_labels,
    propagate_labels,
)
from difftrack.rendering import RenderSpec, exact_masks, render_clip

RESULTS = Path(__file__).parent / "results"
STEP, NUM_STEPS, CHUNK_LEN = 49, 50, 9
FIRST_SEED = 720_000
SCHEDULES = {
    "consecutive, half overlapping": ChunkParams(chunk_len=CHUNK_LEN, interleaved=False, chunk_stride=CHUNK_LEN // 2),
    "consecutive": ChunkParams(chunk_len=CHUNK_LEN, interleaved=False),
    "spread over the clip": ChunkParams(chunk_len=CHUNK_LEN, interleaved=True),
}
KINDS = ("query_key", "feature", "query_query", "key_key")
_LK_GRID_PX = 6
"""Distance of the points whose motion Lucas-Kanade estimates, pixels."""

Scores = dict[str, float]
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Displacement (x, y) in pixels of every pixel of the first grey picture to the second."""


@dataclass
class Case:
    """A clip with its masks and its descriptors."""

    video: MaskedVideo
    chunks: Sequence[tuple[tuple[int, ...], Mapping[int, Mapping[str, Tensor]]]]
    """Frames of each chunk, and its descriptors by layer and kind."""
    size: tuple[int, int]
    """Size of the backbone's input."""
    seconds: float
    """CPU seconds to encode the frames and to run the backbone over the chunks."""
    backbone: Backbone

    @cached_property
    def tokens(self) -> Float[Tensor, "1 frame row col channel"]:
        """The clean latents that a token covers."""
        height, width = self.size
        frames = working_frames(self.video.clip.frames, height=height, width=width).astype(np.uint8)
        latents, patch = self.backbone.encode(frames, frames_alone=True), self.backbone.patch_size
        return (
            latents.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3)[None].float()
        )


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("tune", tune), ("study", study)):
        command = commands.add_parser(name)
        command.add_argument("--size", type=_size, default=(160, 240), metavar="HxW", help="that the backbone sees")
        command.add_argument("--backbone", default=str(shipped_backbone()))
        command.add_argument("--device", default="auto")
        command.set_defaults(run=function)
        if name == "tune":
            command.add_argument("--clips", type=int, default=2, help="per split")
        else:
            command.add_argument("--davis", type=Path, required=True, help="holds JPEGImages and Annotations")
            command.add_argument("--frames", type=int, default=25, help="of each sequence, from its first on")
            command.add_argument("--sequences", type=int, default=None, help="at most so many")
            command.add_argument("--best-only", action="store_true", help="the chosen setting, and no motion")
            command.add_argument("--layers", type=int, nargs="+", default=None, help="of the table; all by default")
            command.add_argument("--keep", type=Path, help="folder of descriptors, which the next call takes up")
            command.add_argument("--extract-only", action="store_true", help="fill that folder and end")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    arguments.run(arguments)


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


# choosing


def tune(arguments: argparse.Namespace) -> None:
    """Choose a setting on rendered clips."""
    backbone = load_backbone(f"path:{arguments.backbone}", ModelParams(device=arguments.device))
    videos = list(rendered(arguments.clips))
    name = next(iter(SCHEDULES))
    cases = [prepare(backbone, video, arguments.size, SCHEDULES[name]) for video in track(videos, "extract")]
    worths: dict[str, float] = {}

    def worth(params: PropagationParams, label: str, held: Sequence[Case] = cases) -> float:
        found = [score(case, of_descriptors(case, params)) for case in held]
        worths[label] = float(np.mean([of["J&F"] for of in found]))
        print(f"{label:46}{100 * worths[label]:6.1f}", flush=True)
        return worths[label]

    best = PropagationParams(num_context=2)
    by_layer = {
        (kind, layer): worth(replace(best, kind=kind, layers=(layer,)), f"{kind}, layer {layer}")
        for kind in KINDS
        for layer in range(backbone.num_layers)
    }
    kind = max(KINDS, key=lambda kind: max(by_layer[kind, layer] for layer in range(backbone.num_layers)))
    layers = sorted(range(backbone.num_layers), key=lambda layer: -by_layer[kind, layer])
    best = replace(best, kind=kind, layers=(layers[0],))
    top = by_layer[kind, layers[0]]
    for count in (2, 3):
        option = replace(best, layers=tuple(sorted(layers[:count])))
        if (found := worth(option, f"layers {option.layers}")) > top:
            best, top = option, found
    for field, values in options(kind, backbone.num_heads, best.layers):
        start = best
        for value in values:
            option = replace(start, **{field: value})
            if (found := worth(option, f"{field} {value}")) > top:
                best, top = option, found
    chosen = name
    for other in list(SCHEDULES)[1:]:
        held = [prepare(backbone, video, arguments.size, SCHEDULES[other]) for video in videos]
        if (found := worth(best, other, held)) > top:
            chosen, top = other, found
    print("chosen:", best, chosen, top)
    about = {"machine": machine(str(backbone.device)), "backbone": backbone.fingerprint, "size": arguments.size}
    about |= {"clips_per_split": arguments.clips, "first_seed": FIRST_SEED, "chunk_len": CHUNK_LEN}
    _write("propagation_tuning", {**about, "params": asdict(best), "schedule": chosen, "worth": top, "worths": worths})


def options(kind: str, num_heads: int, layers: Any) -> list[tuple[str, list[Any]]]:  # noqa: ANN401
    """What is tried besides kind and layer, field by field."""
    temperatures = [2.0, 4.0, 16.0] if kind == "query_key" else [0.02, 0.1]
    found: list[tuple[str, list[Any]]] = [
        ("temperature", temperatures),
        ("top_k", [3, 5, 20, None]),
        ("radius_token", [3, 9, None]),
        ("num_context", [0, 1, 4]),
        ("directions", ["forward"]),
    ]
    if kind != "feature":
        found.insert(0, ("heads", [dict.fromkeys(layers, (head,)) for head in range(num_heads)]))
    return found


def rendered(per_split: int) -> Iterator[MaskedVideo]:
    """Clips with exact masks of every object."""
    splits: tuple[Literal["easy", "hard"], ...] = ("easy", "hard")
    for split in splits:
        for number in range(per_split):
            kinds: tuple[Literal["object", "scene"], ...] = ("object", "scene")
            spec = RenderSpec(seed=FIRST_SEED + number, role="tune", kind=kinds[number % 2], split=split)
            shown = render_clip(spec)
            clip = Clip(f"{split}-{spec.seed}", shown.frames, 8.0, shown.prompt, "rendered")
            yield MaskedVideo(clip, exact_masks(spec), np.ones(clip.num_frames, dtype=bool))


# the table


def study(arguments: argparse.Namespace) -> None:
    """Measure every way to carry a mask, on DAVIS."""
    backbone = load_backbone(f"path:{arguments.backbone}", ModelParams(device=arguments.device))
    videos = load_davis(arguments.davis, max_frames=arguments.frames, end=arguments.sequences)
    if arguments.extract_only:
        for video in videos:
            kept_chunks(backbone, video, arguments.size, next(iter(SCHEDULES)), arguments.keep)
            print(video.clip.name, flush=True)
        return
    tuned = json.loads((RESULTS / "propagation_tuning.json").read_text())
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in tuned["params"].items()}
    if isinstance(plain["heads"], dict):
        plain["heads"] = {int(layer): tuple(heads) for layer, heads in plain["heads"].items()}
    best = PropagationParams(**plain)
    layers = arguments.layers or range(backbone.num_layers)
    ways = rows(best, layers, best_only=arguments.best_only)
    found: dict[str, dict[str, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    names = []
    for video in videos:
        names.append(video.clip.name)
        case = kept_chunks(backbone, video, arguments.size, tuned["schedule"], arguments.keep)
        seconds["extraction"].append(case.seconds)
        for name, way in ways.items():
            started = time.process_time()
            masks = way(case)
            seconds[name].append(time.process_time() - started)
            found["sequences"][name].append(score(case, masks))
        print(
            video.clip.name,
            {name: round(100 * own[-1]["J&F"], 1) for name, own in found["sequences"].items()},
            flush=True,
        )
    means = {name: _mean(own) for name, own in found["sequences"].items()}
    for name, own in means.items():
        print(f"{name:46}" + "".join(f"{100 * own[key]:8.1f}" for key in ("J&F", "J", "F")))
    height, width = arguments.size
    kind = "best" if arguments.best_only else "study"
    about = {"machine": machine(str(backbone.device)), "backbone": backbone.fingerprint, "size": arguments.size}
    about |= {"frames": arguments.frames, "sequences": names, "params": asdict(best), "schedule": tuned["schedule"]}
    _write(
        f"propagation_{kind}_{height}x{width}",
        {**about, "means": means, "per_sequence": found["sequences"], "cpu_seconds": _mean_seconds(seconds)},
    )


def rows(best: PropagationParams, layers: Sequence[int], *, best_only: bool) -> dict[str, Callable[[Case], np.ndarray]]:
    """Ways to carry a mask, by their names in the table."""
    chosen = {"no motion": still, "chosen setting": lambda case: of_descriptors(case, best)}
    if best_only:
        return chosen
    flows: dict[str, Flow] = {"Lucas-Kanade": lk_flow, "Farneback flow": farneback_flow, "DIS flow": dis_flow}
    ways: dict[str, Callable[[Case], np.ndarray]] = {"no motion": still}
    for name, flow in flows.items():
        ways[name] = lambda case, flow=flow: of_flow(case, flow)
        ways[f"{name}, at the backbone's size"] = lambda case, flow=flow: of_flow(case, flow, resized=True)
    ways["cosine of latents"] = lambda case: of_latents(case, best)
    for kind in KINDS:
        for layer in layers:
            own = replace(best, kind=kind, layers=(layer,), heads="all")
            if kind != best.kind:
                own = replace(own, temperature=None)
            ways[f"{kind}, layer {layer}"] = lambda case, own=own: of_descriptors(case, own)
    ways["chosen setting"] = chosen["chosen setting"]
    return ways


def prepare(backbone: Backbone, video: MaskedVideo, size: tuple[int, int], chunk_params: ChunkParams) -> Case:
    """Run the backbone over a clip's chunks and hold all layers in half precision."""
    height, width = size
    params = TrackingParams(
        height=height,
        width=width,
        num_inference_steps=NUM_STEPS,
        steps=(STEP,),
        mode=ModeParams(rendered="clean", generated="clean", folder="clean"),
        chunks=chunk_params,
    )
    started = time.process_time()
    schedule = chunk_schedule(video.clip.num_frames, chunk_params)
    extraction = Extractor(backbone, params).prepare(video.clip, chunks=schedule)
    chunks = []
    for group, spec in extraction.groups.items():
        held: dict[int, dict[str, Tensor]] = {}

        def keep(unit: Any, held: dict[int, dict[str, Tensor]] = held) -> None:  # noqa: ANN401
            held[unit.layer] = {kind: unit.tensors[kind].half().clone() for kind in ("query", "key", "feature")}

        extraction.run(extraction.plan(group), keep)
        chunks.append((spec.frames, held))
    seconds = time.process_time() - started
    return Case(video, chunks, size, seconds, backbone)


def kept_chunks(
    backbone: Backbone, video: MaskedVideo, size: tuple[int, int], schedule: str, keep: Path | None
) -> Case:
    """Prepare a clip, or load what an earlier call kept of it.

    Consecutive chunks are among the chunks that overlap by half, so one run serves both schedules.
    """
    if keep is None or schedule not in list(SCHEDULES)[:2]:
        return prepare(backbone, video, size, SCHEDULES[schedule])
    file = keep / f"{video.clip.name}_{video.clip.num_frames}_{size[0]}x{size[1]}.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        if kept["backbone"] != backbone.fingerprint:
            raise SystemExit(f"{file} is of other weights; remove it")
        case = Case(video, kept["chunks"], size, kept["seconds"], backbone)
    else:
        case = prepare(backbone, video, size, SCHEDULES[next(iter(SCHEDULES))])
        keep.mkdir(parents=True, exist_ok=True)
        torch.save({"chunks": case.chunks, "seconds": case.seconds, "backbone": backbone.fingerprint}, file)
    wanted = set(chunk_schedule(video.clip.num_frames, SCHEDULES[schedule]))
    return replace(case, chunks=[chunk for chunk in case.chunks if tuple(chunk[0]) in wanted])


# ways to carry a mask


def still(case: Case) -> UInt8[np.ndarray, "frame row col"]:
    """The mask stays where it is."""
    return np.repeat(case.video.masks[:1], case.video.clip.num_frames, axis=0)


def of_descriptors(case: Case, params: PropagationParams) -> UInt8[np.ndarray, "frame row col"]:
    """Label propagation along descriptors."""
    entries = {"query_key": ("query", "key"), "query_query": ("query", "query"), "key_key": ("key", "key")}
    first, second = entries.get(params.kind, ("feature", "feature"))

    def read(held: Mapping[int, Mapping[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for _, layer in params.sources((STEP,), tuple(held)):
            places = params.places_of_heads(layer, range(len(held[layer]["query"])))
            pairs.append((held[layer][first][places].float(), held[layer][second][places].float()))
        return pairs

    chunks = [DescriptorChunk(frames, lambda held=held: read(held)) for frames, held in case.chunks]
    return _propagated(case, chunks, params)


def of_latents(case: Case, params: PropagationParams) -> UInt8[np.ndarray, "frame row col"]:
    """Label propagation along the backbone's input latents, by their cosine."""
    params = replace(params, kind="feature", heads="all", layers="stored", temperature=None)
    chunks = []
    for frames, _ in case.chunks:
        own = case.tokens[:, list(frames)]
        chunks.append(DescriptorChunk(frames, lambda own=own: [(own, own)]))
    return _propagated(case, chunks, params)


def _propagated(case: Case, chunks: Sequence[DescriptorChunk], params: PropagationParams) -> np.ndarray:
    truth = case.video.masks
    rows, cols = chunks[0].read()[0][0].shape[2:4]
    given = mask_labels(truth[0], rows=rows, cols=cols)
    found = propagate_labels(chunks, {0: given.labels}, params)
    height, width = truth.shape[1:]
    masks = [masks_of_labels(found[frame], given.objects, height=height, width=width) for frame in range(len(truth))]
    return np.stack([truth[0], *masks[1:]])


def of_flow(case: Case, flow: Flow, *, resized: bool = False) -> UInt8[np.ndarray, "frame row col"]:
    """Carry soft labels along the flow from each frame back to the one before."""
    frames, truth = case.video.clip.frames, case.video.masks
    if resized:
        frames = working_frames(frames, height=case.size[0], width=case.size[1]).astype(np.uint8)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    height, width = grey[0].shape
    given = mask_labels(truth[0], rows=height, cols=width)
    labels = np.ascontiguousarray(given.labels.permute(1, 2, 0).numpy())
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    masks = [truth[0]]
    for before, now in pairwise(grey):
        back = flow(now, before).astype(np.float32)
        labels = cv2.remap(
            labels, x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        soft = torch.from_numpy(labels).permute(2, 0, 1)
        masks.append(masks_of_labels(soft, given.objects, height=truth.shape[1], width=truth.shape[2]))
    return np.stack(masks)


def lk_flow(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Pyramidal Lucas-Kanade at points of a grid, between which motion is resized bilinearly."""
    height, width = now.shape
    rows, cols = height // _LK_GRID_PX, width // _LK_GRID_PX
    x, y = (np.arange(cols) + 0.5) * width / cols, (np.arange(rows) + 0.5) * height / rows
    points = np.stack([np.zeros(rows * cols), *(axis.ravel() for axis in np.meshgrid(x, y))], axis=1).astype(np.float32)
    pair = np.stack([now, before])[..., None].repeat(3, axis=-1)
    moved = lucas_kanade(pair, points, LucasKanadeParams()).points_xy_px
    return cv2.resize((moved[1] - moved[0]).reshape(rows, cols, 2), (width, height), interpolation=cv2.INTER_LINEAR)


def farneback_flow(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """OpenCV's Farneback flow with the settings of its documentation, except for five levels."""
    return cv2.calcOpticalFlowFarneback(now, before, None, 0.5, 5, 15, 3, 5, 1.2, 0)


def dis_flow(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """OpenCV's dense inverse search, preset medium."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now, before, None)


# scores


def score(case: Case, masks: UInt8[np.ndarray, "frame row col"]) -> Scores:
    """DAVIS's measures, averaged over the objects of a sequence."""
    own = davis_scores(masks, case.video.masks)
    found = {"J&F": [of.j_and_f for of in own]}
    for name, part in (("J", "region"), ("F", "boundary")):
        for key in ("mean", "recall", "decay"):
            label = name if key == "mean" else f"{name} {key}"
            found[label] = [getattr(getattr(of, part), key) for of in own]
    return {name: float(np.mean(values)) for name, values in found.items()}


def _mean(scores: Sequence[Scores]) -> Scores:
    return {name: float(np.mean([of[name] for of in scores])) for name in scores[0]}


def _mean_seconds(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(own)) for name, own in seconds.items()}


def _write(name: str, results: Mapping[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
