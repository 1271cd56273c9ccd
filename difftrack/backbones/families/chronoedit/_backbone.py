"""ChronoEdit: Wan 2.1 image to video, whose last frame is the edited image."""

from typing import Any

import numpy as np
from jaxtyping import Float

from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones.families.wan._backbone import WanBackbone

__all__ = ["ChronoEditBackbone"]


class ChronoEditBackbone(WanBackbone):
    """A ChronoEdit pipeline. Two latent frames are an image and its edit, and stand eight positions apart in time."""

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """With temporal reasoning at all steps, so that every frame is sampled to the end."""
        return super().sample(
            pipeline,
            recorder,
            cfg_scale=cfg_scale,
            enable_temporal_reasoning=True,
            num_temporal_reasoning_steps=arguments["num_inference_steps"],
            **arguments,
        )
