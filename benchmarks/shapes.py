"""Whether the shipped backbone knows the words for shapes, in its samples and in clips that it is shown.

Usage: python -m benchmarks.shapes [--parts sampled shown cards] [--sets 4] [--steps 20] [--clips 27] [--cards 9]
                                   [--pipeline DIR] [--device auto]

Sampled: the prompts of a set ask for one thing of every shape; everything else, the noise included, is the same.
GrabCut cuts the thing out of the first frame, and its outline is compared with the outlines of all shapes, turned and
scaled. Rendered close-ups, measured in the same way, show how reliable this is.

Shown: noise is added to the latents of a rendered close-up. The word whose prompt gives the least error of the velocity
counts as the model's answer (Li et al. 2023, arXiv 2303.16203). Chance is one in nine; blobs, which have no fixed
outline, are left out.

Cards: the same for upright shapes of one area that only travel, as many of each shape, at noisier steps. Only the
outline differs between them.

Results are printed and go to benchmarks/results/shapes.json, the first set's samples to a picture in the same folder.
Parts that are not requested stay in the file, if the same weights gave them.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.matching import machine
from benchmarks.prompts import velocity_errors
from difftrack.annotation import AnnotationError, grabcut_mask
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone
from difftrack.media import write_image
from difftrack.rendering import (
    PALETTE,
    SHAPES,
    Motion,
    RenderSpec,
    Scene,
    centred,
    close_up,
    describe,
    layer_textures,
    render_batch,
    sample_scene,
    shape_card,
)

RESULTS = Path(__file__).parent / "results" / "shapes.json"
KNOWN: Final = tuple(shape for shape in SHAPES if shape != "blob")
NUM_FRAMES: Final = 17
SIZE: Final = (128, 192)
NOISY_STEPS: Final = (5, 10, 20)
"""Step of 50 at which the words of a shown clip are compared."""
CARD_STEPS: Final = (0, 3, 6, 9, 12)
"""The same for cards; at the last of these steps outlines begin to be visible."""
PARTS: Final = ("sampled", "shown", "cards")
_NUM_ANGLES: Final = 128

ShapeClip = tuple[UInt8[np.ndarray, "frame row col rgb"], str, str]
"""Frames, prompt, and the prompt's word for the shape."""


def main() -> None:
    """Sample, render, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--clips", type=int, default=27, help="rendered ones, of which all words are asked")
    parser.add_argument("--cards", type=int, default=len(KNOWN), help="rendered ones, as many of each shape")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pipeline", default=str(shipped_backbone()))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--first-seed", type=int, default=800_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    backbone = load_backbone(f"path:{given.pipeline}", ModelParams(device=given.device))
    results = _kept(given.results, backbone.fingerprint) | {
        "machine": machine(str(backbone.device)),
        "fingerprint": backbone.fingerprint,
        "first_seed": given.first_seed,
        "chance": 1 / len(KNOWN),
    }
    if "sampled" in given.parts:
        results |= _sampled(backbone, given)
    if "shown" in given.parts:
        results["shown"] = _shown(backbone, _close_ups(given.first_seed, given.clips), NOISY_STEPS, given.first_seed)
    if "cards" in given.parts:
        results["cards"] = _shown(backbone, _cards(given.first_seed, given.cards), CARD_STEPS, given.first_seed)
    given.results.write_text(json.dumps(results, indent=1) + "\n")
    _print(results)


def _kept(path: Path, fingerprint: str) -> dict[str, Any]:
    """Earlier results of the same weights."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return before if before.get("fingerprint") == fingerprint else {}


def _sampled(backbone: Backbone, given: argparse.Namespace) -> dict[str, Any]:
    """Sample, draw the first set, and report the shapes that are recognised in samples and in rendered close-ups."""
    outlines = outlines_of_shapes()
    cases = [(seed, shape) for seed in range(given.first_seed, given.first_seed + given.sets) for shape in KNOWN]
    samples = [
        backbone.generate(
            prompt_of(seed, shape),
            seed=seed,
            num_inference_steps=given.steps,
            cfg_scale=given.guidance,
            num_frames=NUM_FRAMES,
            height=SIZE[0],
            width=SIZE[1],
        ).frames
        for seed, shape in track(cases, "sample", disable=not Console().is_terminal)
    ]
    strips = [np.concatenate(list(frames[::8]), axis=1) for frames in samples[: len(KNOWN)]]
    write_image(given.results.with_suffix(".jpg"), _in_columns(strips, 3))
    clips = list(_close_ups(given.first_seed, len(cases)))
    return {
        "num_inference_steps": given.steps,
        "cfg_scale": given.guidance,
        "sampled": recognised((frames[0] for frames in samples), [shape for _, shape in cases], outlines),
        "rendered": recognised((frames[0] for frames, _, _ in clips), [shape for _, _, shape in clips], outlines),
    }


def _shown(backbone: Backbone, clips: Iterable[ShapeClip], steps: Sequence[int], first_seed: int) -> dict[str, Any]:
    """Try all words on rendered clips with noise."""
    errors, shapes = [], []
    for number, (frames, prompt, shape) in enumerate(track(list(clips), "words", disable=not Console().is_terminal)):
        prompts = [" ".join(word if said == shape else said for said in prompt.split()) for word in KNOWN]
        errors.append(velocity_errors(backbone, frames, prompts, steps, seed=first_seed + number))
        shapes.append(shape)
    return guessed(np.stack(errors), shapes, steps)


def prompt_of(seed: int, shape: str) -> str:
    """One thing that hardly moves; the seed decides colours and texture."""
    rng = np.random.default_rng(seed)
    thing, ground = rng.choice(list(PALETTE), size=2, replace=False)
    texture = rng.choice(["marbled", "striped", "rocky", "cloudy"])
    return f"a {thing} {texture} {shape} moves slowly right over a {ground} cloudy background"


def outlines_of_shapes() -> dict[str, Float[np.ndarray, " angle"]]:
    """Distance of every known shape's outline from its centre at equally spaced angles; mean square 1."""
    outlines: dict[str, Float[np.ndarray, " angle"]] = {}
    seed = 0
    while len(outlines) < len(KNOWN):
        scene = sample_scene(RenderSpec(seed=seed))
        outlines |= {
            shape: _scaled(radius)
            for shape, radius in zip(scene.shapes, scene.radius[1:], strict=False)
            if shape in KNOWN
        }
        seed += 1
    return outlines


def shape_of(mask: Bool[np.ndarray, "row col"], outlines: dict[str, Float[np.ndarray, " angle"]]) -> tuple[str, float]:
    """The shape whose outline is nearest to that of a mask's largest part, turned and scaled as suits it best.

    Returns:
        The shape and the root mean square of the difference, over the mask's mean radius.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea)
    moments = cv2.moments(contour)
    if not moments["m00"]:
        return "none", float("inf")
    x, y = (contour[:, 0] - np.array([moments["m10"], moments["m01"]]) / moments["m00"]).T
    place = (np.arctan2(y, x) / (2 * np.pi) * _NUM_ANGLES).round().astype(int) % _NUM_ANGLES
    radius = np.full(_NUM_ANGLES, -1.0)
    np.maximum.at(radius, place, np.hypot(x, y))
    known = np.flatnonzero(radius >= 0)
    seen = _scaled(np.interp(np.arange(_NUM_ANGLES), known, radius[known], period=_NUM_ANGLES))
    turned = {
        shape: min(float(np.sqrt(np.mean((np.roll(outline, turn) - seen) ** 2))) for turn in range(_NUM_ANGLES))
        for shape, outline in outlines.items()
    }
    best = min(turned, key=lambda shape: turned[shape])
    return best, turned[best]


def recognised(
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
    shapes: Sequence[str],
    outlines: dict[str, Float[np.ndarray, " angle"]],
) -> dict[str, Any]:
    """Count the frames that show a thing of the requested shape."""
    found = []
    for frame in frames:
        try:
            found.append(shape_of(grabcut_mask(frame), outlines))
        except AnnotationError:
            found.append(("none", float("inf")))
    right = [name == shape for (name, _), shape in zip(found, shapes, strict=True)]
    distances = [distance for _, distance in found if np.isfinite(distance)]
    return {
        "clips": len(shapes),
        "right": float(np.mean(right)),
        "median_distance": float(np.median(distances)) if distances else None,
        "by_shape": {
            shape: dict(Counter(name for (name, _), asked in zip(found, shapes, strict=True) if asked == shape))
            for shape in KNOWN
        },
    }


def guessed(errors: Float[np.ndarray, "clip word step"], shapes: Sequence[str], steps: Sequence[int]) -> dict[str, Any]:
    """Count how often the right word gives the least error, per step and for the sum of all steps."""
    right = np.array([KNOWN.index(shape) for shape in shapes])
    over = errors.mean(axis=1) / errors[np.arange(len(right)), right]
    return {
        "clips": len(shapes),
        "steps": list(steps),
        "right": (errors.argmin(axis=1) == right[:, None]).mean(axis=0).tolist(),
        "right_over_all_steps": float(
            ((errors / errors.mean(axis=1, keepdims=True)).sum(axis=2).argmin(axis=1) == right).mean()
        ),
        "error_of_any_word_over_that_of_the_right_one": over.mean(axis=0).tolist(),
    }


def _scaled(radius: Float[np.ndarray, " angle"]) -> Float[np.ndarray, " angle"]:
    scaled: np.ndarray = radius / np.sqrt(np.mean(radius**2))
    return scaled


def _cards(first_seed: int, count: int) -> Iterator[ShapeClip]:
    """Cards of each known shape by turns, with their prompts and their shapes."""
    seed = first_seed
    for number in range(count):
        while (scene := sample_scene(_spec(seed))).shapes[0] != KNOWN[number % len(KNOWN)]:
            seed += 1
        yield *_rendered(_spec(seed), centred(shape_card(scene), num_frames=NUM_FRAMES)), scene.shapes[0]
        seed += 1


def _spec(seed: int) -> RenderSpec:
    return RenderSpec(seed=seed, num_frames=NUM_FRAMES, height=SIZE[0], width=SIZE[1])


def _close_ups(first_seed: int, count: int) -> Iterator[ShapeClip]:
    """Easy close-ups of known shapes, with their prompts and their shapes."""
    seed = first_seed
    while count:
        scene = centred(close_up(sample_scene(_spec(seed))), num_frames=NUM_FRAMES)
        if scene.shapes[0] in KNOWN:
            yield *_rendered(_spec(seed), scene), scene.shapes[0]
            count -= 1
        seed += 1


def _rendered(spec: RenderSpec, scene: Scene) -> tuple[UInt8[np.ndarray, "frame row col rgb"], str]:
    textures = layer_textures(spec, scene)
    texels = torch.stack([torch.from_numpy(texture.pixels) for texture in textures])[None, : scene.num_layers]
    motion, size = Motion.stack([scene], device=torch.device("cpu")), (spec.height, spec.width)
    moments = torch.arange(spec.num_frames, dtype=torch.float32)
    frames = [render_batch(motion, texels, time[None, None], size, shutter_samples=1)[0] for time in moments]
    return torch.cat(frames).numpy(), describe(spec, scene, textures)


def _in_columns(strips: Sequence[UInt8[np.ndarray, "row col rgb"]], columns: int) -> UInt8[np.ndarray, "row col rgb"]:
    rows = [np.concatenate(strips[start : start + columns], axis=1) for start in range(0, len(strips), columns)]
    picture: np.ndarray = np.concatenate(rows)
    return picture


def _print(results: dict[str, Any]) -> None:
    table = Table("", "clips", "right", "error", title=f"shapes; chance {results['chance']:.0%}")
    for name in ("sampled", "rendered"):
        if name in results:
            table.add_row(name, str(results[name]["clips"]), f"{results[name]['right']:.0%}")
    for name in ("shown", "cards"):
        if (found := results.get(name)) is None:
            continue
        ratios = found["error_of_any_word_over_that_of_the_right_one"]
        for step, right, ratio in zip(found["steps"], found["right"], ratios, strict=True):
            table.add_row(f"{name}, step {step}", str(found["clips"]), f"{right:.0%}", f"{ratio:.3f}")
        table.add_row(f"{name}, all steps", str(found["clips"]), f"{found['right_over_all_steps']:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
