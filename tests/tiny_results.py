"""Tiny results of every stage for one clip of a bright square that moves by whole tokens. No two axes agree."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from difftrack.datasets import Clip, Tracks
from difftrack.geometry import TokenGrid
from difftrack.reports import (
    BackboneResults,
    GroupAccuracy,
    Method,
    ReportClips,
    ReportParams,
    ScoreMaps,
    TapVidScores,
    TrackedClip,
    TrackingResults,
)
from difftrack.reports import example_clips as choose_examples
from difftrack.store import DescriptorSpec, create_group, open_store
from difftrack.tracking import PredictedTracks, no_motion

GRID = TokenGrid(num_latent_frames=3, rows=5, cols=7, stride_px=8, temporal_stride=1)
LAYERS, STEPS, HEADS, CHANNELS = (1, 4), (0, 20, 49), (0, 1), 11
START = (1, 1)
"""(row, col) of the token under the square in frame 0; it moves one token to the right per frame."""


def clip(name: str = "square") -> Clip:
    frames = np.full((GRID.num_latent_frames, GRID.height, GRID.width, 3), 60, dtype=np.uint8)
    row, col = START
    for frame in range(len(frames)):
        frames[frame, 8 * row : 8 * row + 8, 8 * (col + frame) : 8 * (col + frame) + 8] = (240, 220, 90)
    return Clip(name=name, frames=frames, fps=5.0, prompt="a <b>square</b> moves", source="rendered", seed=3)


def tracks() -> Tracks:
    """The square's centre, and a point of the background that the square never covers."""
    row, col = START
    square = [(8 * (col + frame) + 4, 8 * row + 4) for frame in range(GRID.num_latent_frames)]
    points = np.asarray([square, [(44, 36)] * GRID.num_latent_frames], dtype=np.float32).transpose(1, 0, 2)
    queries = np.concatenate([np.zeros((2, 1), np.float32), points[0]], axis=1)
    return Tracks(points, np.ones((3, 2), bool), queries, GRID.height, GRID.width, "exact")


def write_store(root: Path, name: str = "square", units: Sequence[tuple[int, int]] = ()) -> None:
    """Descriptors in which every token is distinct and the whole picture moves with the square."""
    rng = np.random.default_rng(7)
    scene = 6 * rng.normal(size=(len(HEADS), 1, GRID.rows, GRID.cols, CHANNELS))
    moving = np.concatenate([np.roll(scene, frame, axis=3) for frame in range(GRID.num_latent_frames)], axis=1)
    timesteps = dict(zip(STEPS, (999.0, 600.0, 19.0), strict=True))
    steps, layers = (tuple(sorted(set(axis))) for axis in zip(*units, strict=True)) if units else (STEPS, LAYERS)
    spec = DescriptorSpec(
        steps=steps,
        timesteps=tuple(timesteps[step] for step in steps),
        layers=layers,
        heads=HEADS,
        num_channels=CHANNELS,
        grid=GRID,
        frames=tuple(range(GRID.num_latent_frames)),
        clip_size=(GRID.height, GRID.width),
        size=(GRID.height, GRID.width),
        fingerprint_parts={"backbone": "tiny", "mode": "add_noise"},
    )
    writer = create_group(str(root), name, spec)
    for step, layer in writer.missing():
        values = moving.astype(np.float16)
        writer.write(step, layer, {"query": values, "key": values, "feature": values})
    writer.finish()


def score_map(low: float, high: float, *extra: tuple[str, int]) -> xr.DataArray:
    """A map that rises with layer and step from `low` to `high`."""
    dims = ("layer", "step", *(name for name, _ in extra))
    shape = (len(LAYERS), len(STEPS), *(count for _, count in extra))
    values = np.linspace(low, high, int(np.prod(shape))).reshape(shape)
    coords = {"layer": list(LAYERS), "step": list(STEPS)} | {name: list(range(count)) for name, count in extra}
    return xr.DataArray(values, dims=dims, coords=coords)


def score_maps() -> ScoreMaps:
    return ScoreMaps(
        backbone="tiny",
        matching_accuracy=score_map(0.02, 0.87),
        confidence=score_map(0.01, 0.3),
        attention_score=score_map(0.1, 0.6),
        harmonic_mean=score_map(0.0, 1.0),
        self_mass=score_map(0.5, 0.2),
        text_mass=score_map(0.4, 0.2),
        feature_accuracy=score_map(0.02, 0.56),
        head_accuracy=score_map(0.0, 0.8, ("head", len(HEADS))),
        head_attention_score=None,
        threshold_px=8.0,
        convention="corrected",
        match_convention="corrected",
        groups=[GroupAccuracy(name, 1, 4, 49, 0.87, 0.56) for name in ("all", "rendered/easy", "generated")],
    )


def footage() -> ReportClips:
    return ReportClips(truth={"square": tracks()}, read=functools.cache(clip), kind=lambda _: "rendered/easy")


def backbone_results(store: Path, params: ReportParams) -> BackboneResults:
    truth = tracks()
    found = PredictedTracks(truth.points_xy_px + np.float32(0.5), truth.visible, np.ones((3, 2), np.float32))
    still = no_motion(truth.query_points, num_frames=3)
    scores = {"tiny": TapVidScores(0.6, 0.5, 0.9, (0.1, 0.4, 0.7, 0.8, 1.0))}
    scores["no motion"] = TapVidScores(0.2, 0.1, float("nan"), (0.0, 0.1, 0.2, 0.3, 0.4))
    return BackboneResults(
        name="tiny",
        scores=score_maps(),
        examples=choose_examples(open_store(str(store)), footage(), params),
        tracked=[TrackedClip("square", truth, {"tiny": found, "no motion": still})],
        results=[TrackingResults([Method(name, mean, {"square": mean}) for name, mean in scores.items()])],
        provenance={"backbone": "tiny"},
    )


def scores_json() -> dict[str, Any]:
    """The output of the score stage: `score_maps` without the scores of heads; one cell is empty."""
    maps = score_maps()
    names = ("matching_accuracy", "feature_accuracy", "confidence", "attention_score", "harmonic_mean")
    tables = {}
    for name in (*names, "self_mass", "text_mass"):
        values = getattr(maps, name).transpose("step", "layer")
        tables[name] = {"axes": ["step", "layer"], "values": values.values.tolist()}
    tables["confidence"]["values"][0][0] = None
    group = {"clips": ["square"], "labels": {"layer": list(LAYERS), "step": list(STEPS)}, "scores": tables}
    return {
        "convention": "corrected",
        "match_convention": ["corrected"],
        "scoring": {"threshold_px": 8.0},
        "truth": {"square": {"kind": "exact", "tracker": None}},
        "headline": "truth",
        "groups": {"all": group, "truth": group, "rendered/easy": group},
    }


def cause_study(backbone: str = "tiny") -> dict[str, Any]:
    """The summary of `difftrack ablate` for three zeroed heads, two prompts and a seed.

    Motion is larger and fewer points are matched the better a head matches, in units that no two measures share.
    """
    plain = {"motion_px": 2.0, "warped_error": 0.001, "error": 0.0}
    pairs: dict[str, list[dict[str, Any]]] = {"plain": [{"prompt": prompt, "seed": 7, **plain} for prompt in (0, 1)]}
    ways: list[dict[str, Any]] = [_way("plain", None, None, None, pairs["plain"], pairs["plain"], 0.0)]
    for (layer, head), accuracy, moved in (((1, 0), 0.2, 0.25), ((1, 1), 0.5, 0.5), ((4, 0), 0.75, 1.5)):
        name = f"zero-l{layer:02d}-h{head:02d}"
        pairs[name] = [
            {"prompt": prompt, "seed": 7, "motion_px": 2 + moved + prompt / 8, "warped_error": 0.0013, "error": 0.125}
            for prompt in (0, 1)
        ]
        ways.append(_way(name, layer, head, accuracy, pairs[name], pairs["plain"], -moved / 10))
    params = {"seeds": [7], "num_inference_steps": 3, "cfg_scale": 4.0, "num_frames": 9, "height": 40, "width": 56}
    return {
        "params": {**params, "matching_clips": 5},
        "backbone": backbone,
        "prompts": {"0": "a red disc", "1": "a <b>blue</b> disc"},
        "measures": {name: name for name in plain},
        "versions": {"torch": "1.2.3"},
        "ways": ways,
        "pairs": pairs,
        "machine": {"device": "a card", "date": "2026-12-01"},
    }


def _way(
    name: str,
    layer: int | None,
    head: int | None,
    accuracy: float | None,
    pairs: Sequence[dict[str, Any]],
    plain: Sequence[dict[str, Any]],
    matched: float,
) -> dict[str, Any]:
    def number(values: Sequence[float]) -> dict[str, float]:
        return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}

    measures = {
        measure: {
            "value": number([pair[measure] for pair in pairs]),
            "difference": number([pair[measure] - by[measure] for pair, by in zip(pairs, plain, strict=True)]),
        }
        for measure in ("motion_px", "warped_error", "error")
    }
    measures["matching_accuracy"] = {"value": number([0.9 + matched]), "difference": number([matched])}
    own = {} if accuracy is None else {"own_matching_accuracy": accuracy}
    word = None if layer is None else "zero"
    about = {"way": name, "intervention": word, "layer": layer, "head": head, "guidance": None, "pairs": len(pairs)}
    return {**about, **own, "measures": measures}
