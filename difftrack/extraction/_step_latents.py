"""Computes latents at denoising steps, for each mode that needs no trajectory."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.backbones import Backbone, ImageConditioning, PromptEmbedding, Schedule, round_trip_error
from difftrack.extraction._params import InversionParams

__all__ = ["clip_noise", "denoised_latents", "inverted_latents", "noised_latents"]

Visits = Iterator[tuple[int, Tensor]]
"""(step, latents entering it)."""


def clip_noise(name: str, latents: Float[Tensor, "*shape"], *, seed: int) -> Float[Tensor, "*shape"]:
    """Draw a clip's noise: the same for every step, run, device and subset of clips."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
    return noise.to(latents.device, latents.dtype)


def noised_latents(
    schedule: Schedule,
    latents: Float[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    steps: Sequence[int],
) -> Visits:
    """Add noise of each of `steps` to clean latents."""
    return ((step, schedule.add_noise(latents, noise, step)) for step in steps)


def inverted_latents(
    backbone: Backbone,
    schedule: Schedule,
    latents: Float[Tensor, "latent_frame channel row col"],
    prompt: PromptEmbedding,
    steps: Sequence[int],
    *,
    conditioning: ImageConditioning | None = None,
    params: InversionParams,
    report: Callable[[float], None],
) -> Visits:
    """Invert the sampler: carry clean latents backwards along its path, as far as the first of `steps`.

    Args:
        backbone: Runs one branch, without guidance.
        schedule: Noise levels of the sampler.
        latents: Clean latents.
        prompt: Prompt of the branch.
        steps: Steps to visit.
        conditioning: Conditioning of an image-to-video backbone.
        params: Form of the inversion.
        report: Called with the relative round-trip error, if requested.
    """

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        return backbone.predict(noisy, timestep, prompt, conditioning=conditioning)

    first = min(steps)
    for step, noisy in schedule.invert(latents, denoise, form=params.form, iterations=params.iterations):
        if step in steps:
            yield step, noisy
        if step == first:
            if params.report_round_trip:
                report(round_trip_error(schedule, latents, noisy, denoise, step=step))
            return


def denoised_latents(
    schedule: Schedule,
    latents: Float[Tensor, "latent_frame channel row col"],
    predict: Callable[[Tensor, Tensor], Tensor],
    steps: Sequence[int],
    *,
    first: int,
) -> Visits:
    """Carry latents along the sampler's path by its deterministic steps, as far as the last of `steps`.

    Args:
        schedule: Noise levels of the sampler.
        latents: Latents that enter the step `first`.
        predict: (latents, timestep) -> the model's guided output.
        steps: Steps to visit.
        first: Step to begin with.
    """
    last = max(steps)
    for step in range(first, last + 1):
        if step in steps:
            yield step, latents
        if step < last:
            latents = schedule.advance(latents, predict(latents, schedule.timesteps[step]), step)
