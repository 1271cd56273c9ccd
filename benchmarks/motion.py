"""Whether samples of the shipped backbone move as their prompts say.

Usage: python -m benchmarks.motion [--sets 8] [--steps 30] [--pipeline DIR] [--results FILE] [--device auto]

The four prompts of a set ask for one thing to move right, down, left and up; everything else, the noise included, is
the same. Motion is measured on the frames by Lucas-Kanade over four frames at a time: points that leave the median
motion of their picture show where the thing goes. Rendered clips in which one object moves in this way show how
reliable the measure is. Results are printed and go to benchmarks/results/motion.json, the samples of the first sets to
a picture in the same folder.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.matching import machine
from difftrack.annotation import lucas_kanade, query_grid
from difftrack.backbones import ModelParams, load_backbone, shipped_backbone
from difftrack.media import write_image
from difftrack.rendering import (
    PALETTE,
    PHOTO_WORDS,
    SHAPES,
    RenderSpec,
    describe,
    layer_textures,
    render_clip,
    sample_scene,
)

RESULTS = Path(__file__).parent / "results" / "motion.json"
DIRECTIONS: Final = {"right": (1.0, 0.0), "down": (0.0, 1.0), "left": (-1.0, 0.0), "up": (0.0, -1.0)}
"""x to the right, y down."""
_SPAN: Final = 4
"""Frames over which points are followed."""
_LEAST_PX: Final = 1.0
"""A point moves if it leaves the rest behind by more than this over such a span, pixels."""
_SHOWN_SETS: Final = 3


def main() -> None:
    """Sample, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--pipeline", default=str(shipped_backbone()))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--first-seed", type=int, default=700_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    backbone = load_backbone(f"path:{given.pipeline}", ModelParams(device=given.device))
    cases = [(seed, word) for seed in range(given.first_seed, given.first_seed + given.sets) for word in DIRECTIONS]
    moved, strips = [], []
    for seed, word in track(cases, "sample", disable=not Console().is_terminal):
        frames = backbone.generate(
            prompt_of(seed, word),
            seed=seed,
            num_inference_steps=given.steps,
            cfg_scale=given.guidance,
            num_frames=17,
            height=128,
            width=192,
        ).frames
        moved.append(motion_of(frames))
        strips.append(np.concatenate(list(frames[::4]), axis=1))
    rendered = list(_rendered(len(cases), given.first_seed))
    results = {
        "machine": machine(str(backbone.device)),
        "fingerprint": backbone.fingerprint,
        "sets": given.sets,
        "num_inference_steps": given.steps,
        "cfg_scale": given.guidance,
        "first_seed": given.first_seed,
        "samples": obedience(moved, [word for _, word in cases]),
        "rendered": obedience([motion for motion, _ in rendered], [word for _, word in rendered]),
    }
    given.results.write_text(json.dumps(results, indent=1) + "\n")
    write_image(given.results.with_suffix(".jpg"), np.concatenate(strips[: _SHOWN_SETS * len(DIRECTIONS)]))
    _print(results)


def prompt_of(seed: int, direction: str) -> str:
    """One moving thing; the seed decides colours and texture."""
    rng = np.random.default_rng(seed)
    thing, ground = rng.choice(list(PALETTE), size=2, replace=False)
    texture, shape = rng.choice(list(PHOTO_WORDS)), rng.choice(SHAPES)
    return f"a {thing} {texture} {shape} moves quickly {direction} over a {ground} cloudy background"


def motion_of(frames: UInt8[np.ndarray, "frame row col rgb"]) -> Float[np.ndarray, " xy"]:
    """Mean motion, in px per frame, of the points that move otherwise than most; zero where none does.

    A background that grows or bends moves, too, but as much one way as the other.
    """
    found = []
    grid = query_grid(*frames.shape[1:3], 24)
    for start in range(0, len(frames) - _SPAN, _SPAN):
        tracks = lucas_kanade(frames[start : start + _SPAN + 1], grid)
        seen = tracks.visible[-1]
        if not seen.any():
            continue
        apart = tracks.points_xy_px[-1, seen] - tracks.points_xy_px[0, seen]
        apart = apart - np.median(apart, axis=0)
        found.append(apart[np.linalg.norm(apart, axis=-1) > _LEAST_PX])
    moving = np.concatenate(found) if found else np.empty((0, 2))
    mean: np.ndarray = moving.mean(axis=0) / _SPAN if len(moving) else np.zeros(2)
    return mean


def obedience(moved: Sequence[Float[np.ndarray, " xy"]], words: Sequence[str]) -> dict[str, Any]:
    """Say how far clips moved along the direction that each was asked for, and how many did mostly so.

    Returns:
        `px_per_frame` along the direction, and across it; the share of clips that go `within_45_degrees` of it, which
        is a quarter by chance, and that go `against` it, half by chance.
    """
    asked = np.array([DIRECTIONS[word] for word in words])
    along = (np.stack(moved) * asked).sum(axis=-1)
    across = np.abs((np.stack(moved) * asked[:, ::-1]).sum(axis=-1))
    return {
        "clips": len(words),
        "px_per_frame": float(along.mean()),
        "px_per_frame_across": float(across.mean()),
        "within_45_degrees": float(((along > across) & (along > 0)).mean()),
        "against": float((along < 0).mean()),
    }


def _rendered(count: int, first_seed: int) -> Iterator[tuple[Float[np.ndarray, " xy"], str]]:
    """Motion of easy clips in which only one object moves, in one of the directions."""
    seed = first_seed
    while count:
        spec = RenderSpec(seed=seed)
        scene = sample_scene(spec)
        words = describe(spec, scene, layer_textures(spec, scene)).split()
        asked = [word for word in words if word in DIRECTIONS]
        if len(asked) == 1 and not {"and", "turning", "still", "slowly"} & set(words):
            yield motion_of(render_clip(spec).frames), asked[0]
            count -= 1
        seed += 1


def _print(results: dict[str, Any]) -> None:
    table = Table("", "px a frame along", "across", "within 45 degrees", "against")
    for name in ("samples", "rendered"):
        row = results[name]
        shares = (f"{row[key]:.0%}" for key in ("within_45_degrees", "against"))
        table.add_row(name, f"{row['px_per_frame']:.2f}", f"{row['px_per_frame_across']:.2f}", *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
