"""Wan VACE: Wan with additional blocks that read a control clip and a mask and add to the layers' states."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from PIL import Image
from torch import Tensor

from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones.families.wan._backbone import WanBackbone

__all__ = ["WanVACEBackbone"]

_CONTROL = "control_hidden_states"
_TO_MAKE, _GIVEN = 255, 0
"""Values of a mask."""
_BLANK = (128, 128, 128)
"""Colour of the frames that are to be generated."""


class WanVACEBackbone(WanBackbone):
    """A Wan VACE pipeline, from text or, with `image_condition: first_frame`, from an image.

    From text, the control clip is blank and all of it is to be made, as in the stock pipeline that is given none. From
    an image, that is its first frame. Control clips of poses, depth or edges, and reference images, are not given. The
    layers that are captured are those of the clip; the blocks of the control clip attend for themselves, and are left
    out.
    """

    @property
    def held_states(self) -> int:
        """States that each control block passes to a layer, and those of the control clip itself."""
        return len(self.transformer_config.vace_layers) + 1

    @property
    def needs_image(self) -> bool:
        return self.params.image_condition in ("first_frame", "every_frame")

    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        if not self.needs_image:
            return super().condition(image, num_latent_frames, frames_alone=frames_alone)
        if self.params.image_condition == "every_frame":
            raise BackboneError(f"image_condition is every_frame, but {self.name} reads an image as its first frame")
        first = Image.fromarray(np.round(image).astype(np.uint8))
        if frames_alone:
            made = self._control(*_clip_of([first], [_GIVEN])), self._control(*_blank(first.size, 1))
            control = torch.cat([made[0], made[1].expand(-1, -1, num_latent_frames - 1, -1, -1)], dim=2)
        else:
            control = self._control(*_from_image(first, (num_latent_frames - 1) * self.temporal_stride + 1))
        # Nothing stands beside the latents; what is read of the image is the control clip.
        return ImageConditioning(control.new_empty(num_latent_frames, 0, *control.shape[3:]), {_CONTROL: control})

    def placeholder_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"]
    ) -> ImageConditioning | None:
        """Use the control clip of a blank clip in place of an image's."""
        if not self.needs_image:
            return None
        num_latent_frames, _, rows, cols = latents.shape
        return ImageConditioning(
            latents.new_empty(num_latent_frames, 0, rows, cols),
            {_CONTROL: self._control_of_text(num_latent_frames, rows, cols)},
        )

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        return latents

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        inputs = super().transformer_inputs(prompt, num_latent_frames, rows, cols)
        if not self.needs_image:
            inputs[_CONTROL] = self._control_of_text(num_latent_frames, rows, cols)
        return inputs

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Sample; an image becomes the first frame of the control clip."""
        if (image := arguments.pop("image", None)) is not None:
            arguments["video"], arguments["mask"] = _from_image(image, arguments["num_frames"])
        return super().sample(pipeline, recorder, cfg_scale=cfg_scale, **arguments)

    @cached_property
    def _controls(self) -> dict[tuple[int, int, int], Tensor]:
        """Control latents of blank clips by the size of their latents; freed together with the backbone."""
        return {}

    def _control_of_text(self, num_latent_frames: int, rows: int, cols: int) -> Tensor:
        size = (num_latent_frames, rows, cols)
        if size not in self._controls:
            if any(weight.is_meta for weight in self.vae.parameters()):  # random weights have no autoencoder
                channels = int(self.transformer_config.vace_in_channels)
                self._controls[size] = self.placeholder_tensor(1, channels, *size)
            else:
                num_frames = (num_latent_frames - 1) * self.temporal_stride + 1
                height, width = rows * self.spatial_stride, cols * self.spatial_stride
                self._controls[size] = self._control(None, None, (num_frames, height, width))
        return self._controls[size]

    @torch.no_grad()
    def _control(
        self,
        video: Sequence[Image.Image] | None,
        mask: Sequence[Image.Image] | None,
        size: tuple[int, int, int] | None = None,
    ) -> Float[Tensor, "1 channel latent_frame row col"]:
        """Encode a control clip and its mask as the stock pipeline does; without a clip, a blank one of `size`."""
        pipeline = self.sampling_pipeline(self.components["scheduler"])
        num_frames, height, width = size or (len(video or ()), *reversed((video or ())[0].size))
        read = pipeline.preprocess_conditions(
            video, mask, None, 1, height, width, num_frames, torch.float32, self.device
        )
        latents = pipeline.prepare_video_latents(*read, None, self.device)
        control: Tensor = torch.cat([latents, pipeline.prepare_masks(*read[1:], None)], dim=1)
        return control.to(self.components.dtype)


def _clip_of(frames: Sequence[Image.Image], masked: Sequence[int]) -> tuple[list[Image.Image], list[Image.Image]]:
    return list(frames), [Image.new("L", frame.size, value) for frame, value in zip(frames, masked, strict=True)]


def _blank(size: tuple[int, int], num_frames: int) -> tuple[list[Image.Image], list[Image.Image]]:
    return _clip_of([Image.new("RGB", size, _BLANK)] * num_frames, [_TO_MAKE] * num_frames)


def _from_image(image: Image.Image, num_frames: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Make the control clip and the mask for a first frame from which the others are generated."""
    first, others = _clip_of([image], [_GIVEN]), _blank(image.size, num_frames - 1)
    return first[0] + others[0], first[1] + others[1]
