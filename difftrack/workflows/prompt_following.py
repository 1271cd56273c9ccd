"""Measures, with a video model, whether a video shows what its prompt says."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from difftrack.backbones import Backbone, PromptEmbedding

__all__ = ["JUDGED_OF", "prompt_following"]

JUDGED_OF = 50
"""Length of the schedule that the noise levels refer to."""


@torch.no_grad()
def prompt_following(
    backbone: Backbone,
    frames: UInt8[np.ndarray, "frame row col rgb"],
    prompt: str,
    other: str,
    *,
    steps: Sequence[int],
    seed: int = 0,
) -> float:
    """Compute the relative increase of a model's error on a video with another prompt.

    A video that shows what its prompt says is predicted best with that prompt. The error is that of one sampling step
    from the noised video, from the same noise for both prompts, squared and averaged; mean over the steps.

    Args:
        backbone: The judge; a model that ignores prompts gives 0.
        frames: The video.
        prompt: Prompt of the video.
        other: Another prompt, which the video does not show.
        steps: Noise levels as steps of 50; not the last one.
        seed: Seed of the noise.

    Source:
        Diffusion classifiers (Li et al. 2023, arXiv 2303.16203), here as a ratio.
    """
    latents = backbone.encode(frames, frames_alone=False)
    schedule = backbone.schedule(JUDGED_OF, grid=backbone.grid_of(latents))
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(latents)
    conditioning = None
    if backbone.needs_image:
        conditioning = backbone.condition(frames[0], len(latents), frames_alone=False)
    embedded = [_embedded(backbone, text) for text in (prompt, other)]
    ratios = []
    for step in steps:
        noisy, below = (schedule.add_noise(latents, noise, at) for at in (step, step + 1))
        errors = []
        for text in embedded:
            output = backbone.predict(noisy, schedule.timesteps[step], text, conditioning=conditioning)
            errors.append(float((schedule.advance(noisy, output, step) - below).square().mean()))
        ratios.append(errors[1] / errors[0] - 1)
    return float(np.mean(ratios))


def _embedded(backbone: Backbone, prompt: str) -> PromptEmbedding:
    """Embed a prompt without repeating earlier warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return backbone.embed(prompt)
