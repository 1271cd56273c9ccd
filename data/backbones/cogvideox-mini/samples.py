"""Draw what the backbone generates: beside rendered clips of the same prompt, and with words of a prompt exchanged.

    python samples.py [PIPELINE] [--steps 50] [--guidance 4] [--rows 6]

Writes figures/samples.jpg and figures/prompts.jpg beside this file, with the weights of this folder unless told
otherwise. Everything goes through stock diffusers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from diffusers.utils import logging as diffusers_logging
from jaxtyping import UInt8
from matplotlib.figure import Figure
from transformers.utils import logging as transformers_logging

from difftrack.rendering import RenderSpec, render_clip

HERE = Path(__file__).resolve().parent
SHOWN = 5
"""Number of frames that are drawn of a clip."""
VARIATIONS = (
    "a red striped circle moves quickly right over a gray cloudy background",
    "a red striped circle moves quickly left over a gray cloudy background",
    "a blue striped circle moves quickly right over a gray cloudy background",
    "a red striped star moves quickly right over a gray cloudy background",
    "a red striped circle moves quickly right over a green grassy background",
    "",
)
"""One prompt, the same with one word or two exchanged, and an empty one."""


def main() -> None:
    """Sample and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, nargs="?", default=HERE)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = CogVideoXPipeline.from_pretrained(arguments.pipeline, dtype=torch.float32).to(device)
    choices = {"steps": arguments.steps, "guidance": arguments.guidance, "seed": arguments.seed}
    specs = [
        RenderSpec(seed=arguments.seed + row, kind="scene" if row % 3 == 2 else "object")
        for row in range(arguments.rows)
    ]
    rendered = [render_clip(spec) for spec in specs]
    sampled = sample(pipeline, [clip.prompt for clip in rendered], num_frames=17, **choices)
    pairs = [np.concatenate([_shown(clip.frames), _shown(own)]) for clip, own in zip(rendered, sampled, strict=True)]
    draw_rows(pairs, [clip.prompt for clip in rendered], HERE / "figures" / "samples.jpg", gap_after=SHOWN)
    varied = sample(pipeline, list(VARIATIONS), num_frames=17, same_noise=True, **choices)
    titles = [prompt or "(no prompt)" for prompt in VARIATIONS]
    draw_rows([_shown(own) for own in varied], titles, HERE / "figures" / "prompts.jpg")


@torch.no_grad()
def sample(
    pipeline: CogVideoXPipeline,
    prompts: Sequence[str],
    *,
    num_frames: int,
    steps: int,
    guidance: float,
    seed: int,
    same_noise: bool = False,
) -> UInt8[np.ndarray, "clip frame row col rgb"]:
    """Sample one clip per prompt, each from its own noise or all from the same."""
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt=list(prompts),
        num_frames=num_frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[
            torch.Generator("cpu").manual_seed(seed + number * (not same_noise)) for number in range(len(prompts))
        ],
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        output_type="latent",
    ).frames
    vae = pipeline.vae
    scaled = (latents / vae.config.scaling_factor).transpose(1, 2).to(vae.dtype)
    videos = torch.cat([vae.decode(one[None]).sample.float().cpu() for one in scaled])
    frames: np.ndarray = ((videos.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    return frames


def save_strips(pipeline: CogVideoXPipeline, prompts: Sequence[str], path: Path, *, num_frames: int) -> None:
    """Draw a quick look during training: few steps, one row per prompt."""
    clips = sample(pipeline, prompts, num_frames=num_frames, steps=20, guidance=4.0, seed=0)
    draw_rows([_shown(clip) for clip in clips], list(prompts), path)


def draw_rows(
    rows: Sequence[UInt8[np.ndarray, "picture row col rgb"]],
    titles: Sequence[str],
    path: Path,
    *,
    gap_after: int | None = None,
) -> None:
    """Draw rows of pictures under their titles.

    Args:
        rows: Pictures of one size, as many in every row.
        titles: One per row.
        path: Picture to write.
        gap_after: Leave a gap after so many pictures.
    """
    _, height, width, _ = rows[0].shape
    gap = width // 12
    strips = []
    for pictures in rows:
        halves = [pictures[:gap_after], pictures[gap_after:]] if gap_after else [pictures]
        joined = [np.concatenate(list(half), axis=1) for half in halves]
        blank = np.full((height, gap, 3), 255, dtype=np.uint8)
        strips.append(np.concatenate([joined[0], blank, joined[1]], axis=1) if gap_after else joined[0])
    inches = strips[0].shape[1] / 100
    figure = Figure(figsize=(inches, len(rows) * (height + 34) / 100), dpi=100, layout="constrained")
    for axes, strip, title in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], strips, titles, strict=True):
        axes.imshow(strip, interpolation="nearest")
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _shown(frames: UInt8[np.ndarray, "frame row col rgb"]) -> UInt8[np.ndarray, "picture row col rgb"]:
    shown: np.ndarray = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
    return shown


if __name__ == "__main__":
    main()
