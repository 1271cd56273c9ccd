"""Records a stock pipeline while it samples."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["TrajectoryRecorder", "to_uint8"]


class TrajectoryRecorder:
    """A pipeline's `callback_on_step_end` that records the latents entering every step.

    Args:
        initial: The noise that enters step 0, as passed to the pipeline.
    """

    def __init__(self, initial: Float[Tensor, "batch *latents"]) -> None:
        self._after_steps: list[Tensor] = []
        self._inputs: dict[str, list[Tensor]] = defaultdict(list)
        self.keep(initial)

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ANN401
        self.keep(tensors["latents"])
        return {}

    def keep(self, latents: Float[Tensor, "batch *latents"]) -> None:
        """Record a copy of the latents after a step, because some pipelines modify them later."""
        self._after_steps.append(latents.detach().to("cpu", copy=True))

    def keep_input(self, name: str, value: Float[Tensor, "1 ..."]) -> None:
        """Record another input of the transformer that changes from step to step."""
        self._inputs[name].append(value.detach().to("cpu", copy=True))

    @property
    def inputs(self) -> dict[str, Float[Tensor, "step ..."]]:
        """The recorded inputs of `keep_input`, step by step."""
        return {name: torch.stack(values) for name, values in self._inputs.items()}

    @property
    def entering(self) -> list[Tensor]:
        """Latents that entered each step, on the CPU; without the clean latents after the last step."""
        return self._after_steps[:-1]


def to_uint8(frames: Float[np.ndarray, "frame row col rgb"]) -> UInt8[np.ndarray, "frame row col rgb"]:
    """Round frames in [0, 1] to bytes."""
    return np.round(frames * 255).clip(0, 255).astype(np.uint8)
