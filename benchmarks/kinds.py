"""How well each kind of descriptor, and each band of rotary frequencies, matches points.

    python -m benchmarks.kinds extract CACHE [--clips 4] [--tapvid FILE]   run the shipped backbone once over every clip
    python -m benchmarks.kinds match CACHE                                 everything else, from what was kept

The backbone sees the first 17 frames at 160x240, an anchor and eight more at a time, as in the tracking view. Points of
frame 0 are matched in all other frames by the soft-argmax of one unit, without a tracker's path, smoothing or fusion,
so that only the descriptors are compared. The measure is TAP-Vid's delta_avg at 256x256, as a mean over the clips of a
set and then over sets. For every kind and band, the layer and the head (or the mean of heads) are chosen on the clips
of role `tune` and on every other real video; the remaining clips are reported. Results go to
benchmarks/results/kinds.json.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import track

from benchmarks.matching import machine
from benchmarks.tracking import RESULTS, SPLITS, rendered
from difftrack.backbones import FeatureKind, load_backbone, shipped_backbone
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.correspondence import (
    CORRECTED,
    MatchKind,
    match_features,
    match_points_with_heads,
    pair_of_kind,
    points_to_tokens,
    tokens_to_points,
)
from difftrack.datasets import TrackedVideo, load_tapvid_pickle
from difftrack.extraction import Extractor, ModeParams, TrackingViewParams, encode_frames
from difftrack.geometry import rescale_points
from difftrack.metrics import tapvid_metrics
from difftrack.rotary import FrequencyBands, RotaryLayout

SIZE, EVALUATED = (160, 240), (256, 256)
FRAMES, STEP, NUM_STEPS = 17, 49, 50
DESCRIPTORS = ("query", "key", "value", "query_pre_rotary", "key_pre_rotary")
STATES: tuple[FeatureKind, ...] = ("heads", "attention", "mlp", "block")
TURNED: tuple[MatchKind, ...] = (
    "query_key",
    "query_query",
    "key_key",
    "query_key_pre_rotary",
    "query_query_pre_rotary",
    "key_key_pre_rotary",
)
NONE = (0.0, 0.0)


def _all_axes(first: float, last: float) -> FrequencyBands:
    return FrequencyBands(temporal=(first, last), vertical=(first, last), horizontal=(first, last))


def _space(first: float, last: float, **temporal: tuple[float, float]) -> FrequencyBands:
    return FrequencyBands(vertical=(first, last), horizontal=(first, last), **temporal)


BANDS: Mapping[str, FrequencyBands] = {
    "all": FrequencyBands(),
    "without the fastest 10 %": _all_axes(0.1, 1),
    "without the fastest 15 %": _all_axes(0.15, 1),
    "slower 75 %": _all_axes(0.25, 1),
    "slower half": _all_axes(0.5, 1),
    "slowest quarter": _all_axes(0.75, 1),
    "faster half": _all_axes(0, 0.5),
    "no temporal": FrequencyBands(temporal=NONE),
    "temporal alone": _space(0, 0),
    "slower half of temporal": FrequencyBands(temporal=(0.5, 1)),
    "slower half of spatial": _space(0.5, 1),
    "slower half of spatial, no temporal": _space(0.5, 1, temporal=NONE),
}
"""HeFT's released settings leave out the fastest 10 % (Cosmos) and 15 % (Wan) of every axis."""


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("extract")
    command.add_argument("cache", type=Path)
    command.add_argument("--clips", type=int, default=4, help="of each split and role")
    command.add_argument("--tapvid", type=Path, help="pickle of real video")
    command.set_defaults(run=extract)
    command = commands.add_parser("match")
    command.add_argument("cache", type=Path)
    command.add_argument("--layers", type=int, nargs="+", default=list(range(8)))
    command.set_defaults(run=match)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    arguments.run(arguments)


# extract


def extract(arguments: argparse.Namespace) -> None:
    """Keep every kind of every layer, float16, one file per clip; existing files stay."""
    arguments.cache.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(f"path:{shipped_backbone()}")
    for name, make in track(_videos(arguments), description="extract"):
        file = arguments.cache / f"{name}.pt"
        if file.exists():
            continue
        video, started = make(), time.process_time()
        if not (video.tracks.query_points[:, 0] == 0).any():
            continue
        started = time.process_time()
        short = _shortened(video)
        kept = {
            "video": {
                "true_xy_px": short.tracks.points_xy_px,
                "visible": short.tracks.visible,
                "queries": short.tracks.query_points,
                "size": (short.tracks.height, short.tracks.width),
            },
            "rotary": backbone.rotary,
            "chunks": _captured(backbone, short),
        }
        part = file.with_suffix(".part")
        torch.save({**kept, "seconds": time.process_time() - started}, part)
        part.replace(file)


def _videos(arguments: argparse.Namespace) -> list[tuple[str, Callable[[], TrackedVideo]]]:
    """Functions that make a clip, by `role-split-number`, all sets in turn; every other real clip is for choosing."""
    makers: dict[str, Callable[[], TrackedVideo]] = {}
    real = [] if arguments.tapvid is None else list(load_tapvid_pickle(arguments.tapvid))
    real.sort(key=lambda video: str(video.clip.name))
    for number in range(arguments.clips):
        for role in ("tune", "eval"):
            for split in SPLITS:
                makers[f"{role}-{split}-{number}"] = partial(_rendered, role, split, number)
    for number, video in enumerate(real[: 2 * arguments.clips]):
        makers[f"{('tune', 'eval')[number % 2]}-real-{number // 2}"] = partial(lambda video: video, video)
    return sorted(makers.items(), key=lambda item: int(item[0].rpartition("-")[2]))


def _rendered(role: Literal["eval", "tune"], split: Literal["easy", "hard"], number: int) -> TrackedVideo:
    return next(islice(rendered(role, split, number + 1, first=number), 1))


def _shortened(video: TrackedVideo) -> TrackedVideo:
    """The first frames, and the query points in the very first."""
    tracks, clip = video.tracks, video.clip
    first = tracks.query_points[:, 0] == 0
    return replace(
        video,
        clip=replace(clip, frames=np.asarray(clip.frames[:FRAMES])),
        tracks=replace(
            tracks,
            points_xy_px=tracks.points_xy_px[:FRAMES, first],
            visible=tracks.visible[:FRAMES, first],
            query_points=tracks.query_points[first],
        ),
    )


def _captured(backbone: Any, video: TrackedVideo) -> list[dict[str, Any]]:  # noqa: ANN401
    chunks: dict[str, dict[str, Any]] = {}
    encoded = None
    for state in STATES:
        params = TrackingViewParams(
            height=SIZE[0],
            width=SIZE[1],
            num_inference_steps=NUM_STEPS,
            steps=(STEP,),
            descriptors=(*DESCRIPTORS, "feature") if state == "heads" else ("feature",),
            feature=state,
            mode=ModeParams(rendered="clean", generated="clean", folder="clean"),
        )
        schedule = chunk_schedule(video.clip.num_frames, ChunkParams(chunk_len=9, interleaved=True))
        extractor = Extractor(backbone, params)
        encoded = encoded or encode_frames(extractor, video.clip.name, video.clip.frames, keep=range(0))
        extraction = extractor.prepare(encoded, chunks=schedule)
        for group, spec in extraction.groups.items():
            kept = chunks.setdefault(group, {"frames": spec.frames, "stride_px": spec.grid.stride_px, "layers": {}})

            def keep(unit: Any, kept: dict[str, Any] = kept, state: str = state) -> None:  # noqa: ANN401
                of_layer = kept["layers"].setdefault(unit.layer, {})
                for entry, tensor in unit.tensors.items():
                    if entry != "text_key":
                        of_layer[state if entry == "feature" else entry] = tensor.half().clone()

            extraction.run(extraction.plan(group), keep)
    return list(chunks.values())


# match


def match(arguments: argparse.Namespace) -> None:
    """Match every kind in every band, choose layer and heads on some clips, and report the others."""
    started, scores = time.process_time(), {}
    files = sorted(arguments.cache.glob("*.pt"))
    for file in track(files, description="match"):
        scores[file.stem] = scores_of(torch.load(file, weights_only=False), arguments.layers)
    chosen = choose(scores)
    results = {
        "machine": machine("cpu"),
        "backbone": load_backbone(f"path:{shipped_backbone()}").fingerprint,
        "size": SIZE,
        "frames": FRAMES,
        "step": STEP,
        "layers": arguments.layers,
        "clips": [file.stem for file in files],
        "cpu_seconds_match": round(time.process_time() - started, 1),
        "rows": [{"kind": kind, "band": band, **row} for (kind, band), row in chosen.items()],
    }
    (RESULTS / "kinds.json").write_text(json.dumps(results, indent=1) + "\n")
    for (kind, band), row in sorted(chosen.items(), key=lambda item: -item[1]["eval"]["mean"]):
        print(f"{kind:24} {band:36} layer {row['layer']} {row['heads']:>5} {row['tune']['mean']:6.1%}", row["eval"])


Place = tuple[str, str, int, str]
"""Labels of the results: kind, band, layer, and `all` or a head."""


def scores_of(kept: Mapping[str, Any], layers: Collection[int]) -> dict[Place, float]:
    """delta_avg of one clip, by kind, band, layer and head."""
    video, found = kept["video"], defaultdict(dict)
    seen = rescale_points(video["queries"][:, 1:], from_size=video["size"], to_size=SIZE)
    for chunk in kept["chunks"]:
        points = points_to_tokens(torch.from_numpy(seen), stride_px=float(chunk["stride_px"]), params=PARAMS)
        for layer, tensors in ((layer, own) for layer, own in chunk["layers"].items() if layer in layers):
            for place, xy_token in _matched(tensors, points, kept["rotary"], layer):
                xy_px = tokens_to_points(xy_token, stride_px=float(chunk["stride_px"]), params=PARAMS).numpy()
                found[place] |= dict(zip(chunk["frames"], xy_px, strict=True))
    truth = rescale_points(video["true_xy_px"], from_size=video["size"], to_size=EVALUATED)
    return {place: _delta(by_frame, truth, video["visible"]) for place, by_frame in found.items()}


PARAMS = replace(CORRECTED, window_radius=1)


def _matched(
    tensors: Mapping[str, torch.Tensor],
    points: torch.Tensor,
    rotary: RotaryLayout | None,
    layer: int,
) -> Iterator[tuple[Place, torch.Tensor]]:
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    for state in STATES:
        yield ((state, "all", layer, "all"), match_features(tensors[state], points, params=PARAMS).points_xy_token)
    for kind in (*TURNED, "value"):
        for band, frequencies in BANDS.items() if kind != "value" else [("all", BANDS["all"])]:
            pair, params = pair_of_kind(
                tensors.__getitem__, kind, params=PARAMS, frequencies=frequencies, rotary=rotary
            )
            mean, heads = match_points_with_heads(*pair, points, params=params)
            yield (kind, band, layer, "all"), mean.points_xy_token
            for head, xy in enumerate(heads.points_xy_token):
                yield (kind, band, layer, str(head)), xy


def _delta(by_frame: Mapping[int, np.ndarray], truth: np.ndarray, visible: np.ndarray) -> float:
    found = np.stack([by_frame[frame] for frame in range(len(truth))])
    found = np.nan_to_num(rescale_points(found, from_size=SIZE, to_size=EVALUATED), nan=-1e4)
    queried = np.zeros(truth.shape[1], dtype=np.int64)
    metrics = tapvid_metrics(found, np.ones_like(visible), truth, visible, queried)
    return float(metrics.average_points_within)


def choose(scores: Mapping[str, Mapping[Place, float]]) -> dict[tuple[str, str], dict[str, Any]]:
    """For every kind and band: the best layer and head on the clips for choosing, and what they reach on the rest."""
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    places = next(iter(scores.values()))
    for kind, band in dict.fromkeys((place[0], place[1]) for place in places):
        own = [place for place in places if place[:2] == (kind, band)]
        best = max(own, key=lambda place: _by_set(scores, place, "tune")["mean"])
        of_all = max((place for place in own if place[3] == "all"), key=lambda p: _by_set(scores, p, "tune")["mean"])
        chosen[kind, band] = {
            "layer": best[2],
            "heads": best[3],
            "tune": _by_set(scores, best, "tune"),
            "eval": _by_set(scores, best, "eval"),
            "all_heads": {"layer": of_all[2], "eval": _by_set(scores, of_all, "eval")},
        }
    return chosen


def _by_set(scores: Mapping[str, Mapping[Place, float]], place: Place, role: str) -> dict[str, float]:
    """Means over the clips of each set, and the mean of these means."""
    by_set: dict[str, list[float]] = defaultdict(list)
    for name, own in scores.items():
        of_role, split, _ = name.split("-")
        if of_role == role:
            by_set[split].append(own[place])
    means = {split: round(float(np.mean(values)), 4) for split, values in by_set.items()}
    return {**means, "mean": round(float(np.mean(list(means.values()))), 4)}


if __name__ == "__main__":
    main()
