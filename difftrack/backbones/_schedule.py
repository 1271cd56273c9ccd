"""Noise levels of a sampler, reached by adding noise, by sampling, or by inverting the sampling.

A schedule's steps count from the noisiest, 0. Step i's level is the one that the sampler's `step()` starts from at
`timesteps[i]`; the level below the last step is the clean latents. `invert` visits exactly those levels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from difftrack.backbones._errors import BackboneError

__all__ = [
    "DenoiseFunction",
    "FlowSchedule",
    "InversionForm",
    "NoiseSchedule",
    "Schedule",
    "VelocitySchedule",
    "round_trip_error",
]

DenoiseFunction = Callable[[Tensor, Tensor], Tensor]
"""(latents, timestep) -> the model's raw output for one branch."""

InversionForm = Literal["explicit", "fixed_point"]
"""Level at which the inversion evaluates the model: the one it leaves, or, by iteration, the one it arrives at."""


class Schedule(ABC):
    """The levels of one sampler at one number of steps.

    Attributes:
        timesteps: The scheduler's value at each step, noisiest first.
    """

    def __init__(self, timesteps: Shaped[Tensor, " step"]) -> None:
        self.timesteps = timesteps

    @property
    def num_inference_steps(self) -> int:
        """Denoising steps from noise to clean."""
        return len(self.timesteps)

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, step: int) -> Tensor:
        """Noise clean latents to the level that enters `step`, by the analytic formula."""

    @abstractmethod
    def advance(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        """Take one deterministic sampling step, from the level of `step` to the next cleaner one."""

    @abstractmethod
    def _leave(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        """Go from the level below `step` up to it, given the model's output at the level below."""

    @abstractmethod
    def _arrive(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        """Go from the level below `step` up to it, given the model's output at the level of `step`."""

    def check_step(self, step: int) -> None:
        """Raise `BackboneError` unless `step` is a step of this schedule."""
        if not 0 <= step < self.num_inference_steps:
            raise BackboneError(
                f"step {step} is out of range; {self.num_inference_steps} steps run from 0 (noisiest)"
                f" to {self.num_inference_steps - 1}"
            )

    def invert(
        self,
        latents: Float[Tensor, "latent_frame channel row col"],
        denoise: DenoiseFunction,
        *,
        form: InversionForm = "fixed_point",
        iterations: int = 5,
    ) -> Iterator[tuple[int, Float[Tensor, "latent_frame channel row col"]]]:
        """Run the sampler backwards from clean latents.

        explicit:    x_hi = up(x_lo, model(x_lo, t_lo))
        fixed point: x_hi = up(x_lo, model(x_hi, t_hi)), iterated from the explicit guess; `advance` then undoes it

        Args:
            latents: Clean latents.
            denoise: The model, one branch, no guidance.
            form: explicit or fixed point.
            iterations: Evaluations per step of the fixed-point form after its first guess.

        Yields:
            (step, latents entering it), from the last step to the first; a caller may stop early.

        Source:
            DDIM inversion (Song et al. 2021); the paper, appendix C, inverts for tracking. The released inversion
            visits levels that are off by one step.
        """
        last = self.num_inference_steps - 1
        for step in range(last, -1, -1):
            below = self.timesteps[min(step + 1, last)]
            guess = self._leave(latents, denoise(latents, below), step)
            for _ in range(iterations if form == "fixed_point" else 0):
                guess = self._arrive(latents, denoise(guess, self.timesteps[step]), step)
            latents = guess
            yield step, latents


class VelocitySchedule(Schedule):
    """A variance-preserving schedule whose model predicts velocity, such as CogVideoX's.

    With the level as an angle, cos a = sqrt(alpha_cumprod), noisy latents are `cos a * x0 + sin a * noise`, the model
    gives `v = cos a * noise - sin a * x0`, and a DDIM step is a rotation by the difference of two angles, so nothing
    divides by zero, even at zero terminal signal.

    Args:
        timesteps: Training timestep of each step, noisiest first.
        alphas_cumprod: Signal power at each training timestep.
        stride: Training timesteps between a step's level and the next.
        final_alpha_cumprod: Signal power after the last step.
    """

    def __init__(
        self,
        timesteps: Shaped[Tensor, " step"],
        *,
        alphas_cumprod: Float[Tensor, " timestep"],
        stride: int,
        final_alpha_cumprod: float = 1.0,
    ) -> None:
        super().__init__(timesteps)
        alphas = alphas_cumprod.double().cpu()
        below = timesteps.cpu() - stride
        final = torch.tensor(final_alpha_cumprod, dtype=alphas.dtype)
        self._angles = torch.acos(alphas[timesteps.cpu()].sqrt())
        self._angles_below = torch.acos(torch.where(below >= 0, alphas[below.clamp(min=0)], final).sqrt())

    def add_noise(
        self,
        latents: Float[Tensor, "*shape"],
        noise: Float[Tensor, "*shape"],
        step: int,
    ) -> Float[Tensor, "*shape"]:
        """`sqrt(alpha_cumprod) * latents + sqrt(1 - alpha_cumprod) * noise`."""
        self.check_step(step)
        cos, sin = _cos_sin(self._angles[step])
        return cos * latents + sin * noise

    def advance(
        self,
        latents: Float[Tensor, "*shape"],
        output: Float[Tensor, "*shape"],
        step: int,
    ) -> Float[Tensor, "*shape"]:
        """One DDIM step with eta 0."""
        cos, sin = self._turn(step)
        return cos * latents - sin * output

    def _leave(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        cos, sin = self._turn(step)
        return cos * latents + sin * output

    def _arrive(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        cos, sin = self._turn(step)
        arrived: Tensor = (latents + sin * output) / cos
        return arrived

    def _turn(self, step: int) -> tuple[float, float]:
        self.check_step(step)
        return _cos_sin(self._angles[step] - self._angles_below[step])


class NoiseSchedule(Schedule):
    """A schedule whose model predicts the noise, such as Allegro's; latents at unit variance, as the model reads them.

    With the level as an angle, tan a = sigma, noisy latents are `cos a * x0 + sin a * noise`. The deterministic Euler
    step of the sampler's sigmas goes from level to level; ancestral sampling adds noise to it.

    Args:
        timesteps: Training timestep of each step, noisiest first.
        sigmas: Noise over data at each step and after the last; one longer than `timesteps`.
    """

    def __init__(self, timesteps: Shaped[Tensor, " step"], *, sigmas: Float[Tensor, " level"]) -> None:
        super().__init__(timesteps)
        self._angles = torch.atan(sigmas.double().cpu())

    def add_noise(
        self,
        latents: Float[Tensor, "*shape"],
        noise: Float[Tensor, "*shape"],
        step: int,
    ) -> Float[Tensor, "*shape"]:
        """`(latents + sigma * noise) / sqrt(sigma^2 + 1)`."""
        self.check_step(step)
        cos, sin = _cos_sin(self._angles[step])
        return cos * latents + sin * noise

    def advance(
        self,
        latents: Float[Tensor, "*shape"],
        output: Float[Tensor, "*shape"],
        step: int,
    ) -> Float[Tensor, "*shape"]:
        """One Euler step down in sigma."""
        cos, cos_below, turn = self._between(step)
        return (cos_below * latents - turn * output) / cos

    def _leave(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        cos, cos_below, turn = self._between(step)
        return (cos * latents + turn * output) / cos_below

    _arrive = _leave

    def _between(self, step: int) -> tuple[float, float, float]:
        self.check_step(step)
        here, below = self._angles[step], self._angles[step + 1]
        return math.cos(here), math.cos(below), math.sin(here - below)


class FlowSchedule(Schedule):
    """A flow-matching schedule: the model gives the velocity along the scheduler's own time, Euler steps follow it.

    Args:
        timesteps: The scheduler's value at each step.
        sigmas: The scheduler's time at each step and after the last; one longer than `timesteps`.
        noise_fractions: Share of noise at each step; the rest is the share of data. It differs from `sigmas` for Mochi,
            whose time runs backwards.
    """

    def __init__(
        self,
        timesteps: Shaped[Tensor, " step"],
        *,
        sigmas: Float[Tensor, " level"],
        noise_fractions: Float[Tensor, " step"],
    ) -> None:
        super().__init__(timesteps)
        self._sigmas = sigmas.double().tolist()
        self._noise_fractions = noise_fractions.double().tolist()

    def add_noise(
        self,
        latents: Float[Tensor, "*shape"],
        noise: Float[Tensor, "*shape"],
        step: int,
    ) -> Float[Tensor, "*shape"]:
        """`(1 - s) * latents + s * noise`, s from the step's own index: the scheduler's `scale_noise` may ignore it."""
        self.check_step(step)
        fraction = self._noise_fractions[step]
        noisy: Tensor = (1 - fraction) * latents + fraction * noise
        return noisy

    def advance(
        self,
        latents: Float[Tensor, "*shape"],
        output: Float[Tensor, "*shape"],
        step: int,
    ) -> Float[Tensor, "*shape"]:
        """One Euler step."""
        return latents + self._time_to_next(step) * output

    def _leave(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        return latents - self._time_to_next(step) * output

    _arrive = _leave

    def _time_to_next(self, step: int) -> float:
        self.check_step(step)
        return float(self._sigmas[step + 1] - self._sigmas[step])


def round_trip_error(
    schedule: Schedule,
    clean: Float[Tensor, "latent_frame channel row col"],
    inverted: Float[Tensor, "latent_frame channel row col"],
    denoise: DenoiseFunction,
    *,
    step: int,
) -> float:
    """Sample back from inverted latents; return |returned - clean| / |clean|.

    Args:
        schedule: Schedule of the inversion.
        clean: Latents that were inverted.
        inverted: Result: the latents entering `step`.
        denoise: The same model.
        step: Step to start from.
    """
    latents = inverted
    for i in range(step, schedule.num_inference_steps):
        latents = schedule.advance(latents, denoise(latents, schedule.timesteps[i]), i)
    return float((latents - clean).norm() / clean.norm())


def _cos_sin(angle: Tensor) -> tuple[float, float]:
    return math.cos(angle), math.sin(angle)
