"""How much of a prompt the shipped backbone uses: what it costs to get one thing wrong.

Usage: python -m benchmarks.prompts [--clips 32] [--pipeline DIR] [--device auto] [--steps 0 5 10 19]

On rendered clips of the role `eval`, easy and with moving objects, this divides the error of the predicted velocity
with a prompt in which one thing is changed by the error with the right prompt. The ratio is above 1 if the model uses
what was changed. The results also hold the share of clips in which the change raises the error; chance is one half. The
noise of a clip is the same for all its prompts. Results are printed and go to benchmarks/results/prompts.json.
"""

import argparse
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.matching import machine
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone
from difftrack.rendering import PALETTE, SHAPES, RenderSpec, render_clip

RESULTS = Path(__file__).parent / "results" / "prompts.json"
NUM_INFERENCE_STEPS = 50
_BACKGROUND: Final = " over a "
_OPPOSITE: Final = {"right": "left", "left": "right", "up": "down", "down": "up"}


def exchange_colours(prompt: str) -> str:
    """Exchange the colours of the first object and the background; bags of words stay the same."""
    objects, background = (part.split() for part in prompt.split(_BACKGROUND))
    objects[1], background[0] = background[0], objects[1]
    return _BACKGROUND.join([" ".join(objects), " ".join(background)])


def change_background_colour(prompt: str) -> str:
    """Name a colour that the prompt does not name."""
    objects, background = prompt.split(_BACKGROUND)
    _, *others = background.split()
    return _BACKGROUND.join([objects, " ".join([_unnamed(PALETTE, prompt), *others])])


def change_object_colour(prompt: str) -> str:
    """Give the first object a colour that the prompt does not name."""
    article, _, *others = prompt.split()
    return " ".join([article, _unnamed(PALETTE, prompt), *others])


def change_shapes(prompt: str) -> str:
    """Give every object a shape that the prompt does not name."""
    other = _unnamed(SHAPES, prompt)
    return " ".join(other if word in SHAPES else word for word in prompt.split())


def reverse_motion(prompt: str) -> str:
    """Reverse every direction."""
    return " ".join(_OPPOSITE.get(word, word) for word in prompt.split())


CHANGES: dict[str, Callable[[str], str]] = {
    "right": str,
    "background's colour": change_background_colour,
    "an object's colour": change_object_colour,
    "both exchanged": exchange_colours,
    "shapes": change_shapes,
    "directions reversed": reverse_motion,
    "no prompt": lambda prompt: "",
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--pipeline", default=str(shipped_backbone()))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 5, 10, 19], help=f"of {NUM_INFERENCE_STEPS}")
    parser.add_argument("--first-seed", type=int, default=600_000)
    given = parser.parse_args()
    backbone = load_backbone(f"path:{given.pipeline}", ModelParams(device=given.device))
    specs = [RenderSpec(seed=given.first_seed + number) for number in range(given.clips)]
    errors = np.stack(
        [_errors(backbone, spec, given.steps) for spec in track(specs, "clips", disable=not Console().is_terminal)]
    )
    results = {
        "machine": machine(str(backbone.device)),
        "fingerprint": backbone.fingerprint,
        "clips": given.clips,
        "first_seed": given.first_seed,
        "steps": given.steps,
        "error_with_the_right_prompt": errors[:, 0].mean(axis=0).tolist(),
        "changes": {
            name: {
                "error_over_right": (errors[:, row].mean(axis=0) / errors[:, 0].mean(axis=0)).tolist(),
                "share_of_clips_that_it_costs": (errors[:, row] > errors[:, 0]).mean(axis=0).tolist(),
            }
            for row, name in enumerate(CHANGES)
            if row > 0
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    _print(results)


@torch.no_grad()
def velocity_errors(
    backbone: Backbone,
    frames: UInt8[np.ndarray, "frame row col rgb"],
    prompts: Sequence[str],
    steps: Sequence[int],
    *,
    seed: int,
) -> Float[np.ndarray, "prompt step"]:
    """Mean squared error of the predicted velocity of a clip at some of 50 steps, all from the noise of `seed`."""
    schedule, latents = backbone.schedule(NUM_INFERENCE_STEPS), backbone.encode(frames, frames_alone=False)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    errors = np.empty((len(prompts), len(steps)))
    for row, embedded in enumerate(map(backbone.embed, prompts)):
        for column, step in enumerate(steps):
            velocity = schedule.add_noise(noise, -latents, step)
            noisy = schedule.add_noise(latents, noise, step)
            predicted = backbone.predict(noisy, schedule.timesteps[step], embedded)
            errors[row, column] = float((predicted - velocity).square().mean())
    return errors


def _errors(backbone: Backbone, spec: RenderSpec, steps: Sequence[int]) -> Float[np.ndarray, "change step"]:
    clip = render_clip(spec)
    prompts = [change(clip.prompt) for change in CHANGES.values()]
    return velocity_errors(backbone, clip.frames, prompts, steps, seed=spec.seed)


def _unnamed(words: Mapping[str, Any] | tuple[str, ...], prompt: str) -> str:
    """One of the words that a prompt does not contain: always the same for one prompt, another for other prompts."""
    others = [word for word in words if word not in prompt.split()]
    return others[zlib.crc32(prompt.encode()) % len(others)]


def _print(results: Mapping[str, Any]) -> None:
    table = Table(
        "changed", *(f"step {step}" for step in results["steps"]), title="error over that of the right prompt"
    )
    for name, row in results["changes"].items():
        cells = zip(row["error_over_right"], row["share_of_clips_that_it_costs"], strict=True)
        table.add_row(name, *(f"{ratio:.3f} ({share:.0%})" for ratio, share in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
