"""AnyFlow, distilled from Wan 2.1: its transformer reads the start and the target of a step."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families.wan._backbone import WanBackbone
from difftrack.geometry import TokenGrid

__all__ = ["AnyFlowBackbone"]

_TARGET = "r_timestep"


class AnyFlowBackbone(WanBackbone):
    """An AnyFlow pipeline with full attention.

    The transformer gives the mean velocity from a timestep to a target. A clip that the backbone sampled is captured
    with the target of each step; your own clip is captured with the timestep itself as the target, which gives the
    velocity there.
    """

    channels_before_frames = False

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        levels = scheduler.sigmas
        return FlowSchedule(scheduler.timesteps, sigmas=levels, noise_fractions=levels[:num_inference_steps])

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        """One per latent frame."""
        return timestep.repeat(1, grid.num_latent_frames)

    def completed_inputs(self, inputs: Mapping[str, Any], sampled: Mapping[str, Tensor]) -> dict[str, Any]:
        target = sampled[_TARGET].to(self.device) if _TARGET in sampled else inputs["timestep"]
        return {**inputs, _TARGET: target}

    def draw_noise(self, shape: tuple[int, int, int, int], generator: Any) -> Tensor:  # noqa: ANN401
        """Handed over with channels before frames, which the pipeline then exchanges."""
        num_latent_frames, channels, rows, cols = shape
        return super().draw_noise((channels, num_latent_frames, rows, cols), generator)

    def latents_as_read(self, latents: Tensor, step: int, scheduler: Any) -> Tensor:  # noqa: ANN401
        return latents.transpose(1, 2).to(self.components.dtype) if step == 0 else latents

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Pass no negative prompt without guidance: the pipeline would still add it to the batch."""

        def keep_target(_: nn.Module, __: Any, inputs: dict[str, Any]) -> None:  # noqa: ANN401
            recorder.keep_input(_TARGET, inputs[_TARGET][-1:])

        if cfg_scale <= 1:
            arguments.pop("negative_prompt_embeds")
        handle = pipeline.transformer.register_forward_pre_hook(keep_target, with_kwargs=True)
        try:
            return super().sample(pipeline, recorder, cfg_scale=cfg_scale, **arguments)
        finally:
            handle.remove()
