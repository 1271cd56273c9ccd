"""ConsisID: CogVideoX from an image, with cross-attention to the features of a face between its layers."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import ConsisIDPipeline
from jaxtyping import Float, Num
from torch import Tensor

from difftrack.backbones._conditions import ImageConditioning
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones.families.cogvideox._backbone import CogVideoXBackbone
from difftrack.backbones.families.consisid._face import FaceFeatures, read_face

__all__ = ["ConsisIDBackbone", "ConsisIDFirstFramePipeline"]

_VIT_TOKENS = 577
"""Tokens of the published checkpoint's image encoder: 24 x 24 patches and a class token."""


class ConsisIDFirstFramePipeline(ConsisIDPipeline):
    """ConsisID with the posterior's mode as the image's latents; the stock pipeline draws a sample."""

    @torch.no_grad()
    def image_latents(
        self, image: Float[Tensor, "batch rgb height width"], num_latent_frames: int
    ) -> Float[Tensor, "batch latent_frame channel row col"]:
        """Make the conditioning channels for an image in [-1, 1] at the clip's size: its latents, then zeros."""
        latents: Tensor = self.vae.encode(image.unsqueeze(2).to(self.vae.dtype)).latent_dist.mode()
        first = (latents * self.vae_scaling_factor_image).transpose(1, 2)
        return torch.cat([first, first.new_zeros(len(first), num_latent_frames - 1, *first.shape[2:])], dim=1)

    def prepare_latents(self, image: Tensor, *others: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return the given initial latents and the conditioning channels of the image."""
        latents: Tensor = others[-2]
        return latents, self.image_latents(image, latents.shape[1]).to(latents.dtype)


class ConsisIDBackbone(CogVideoXBackbone):
    """A ConsisID pipeline. The first frame is the image; `face` holds the features of the face in it.

    They reach the video tokens between the layers, through a cross-attention of its own; the attention
    within a layer, which is captured, is CogVideoX's. A picture of keypoints (`is_kps`) is not given.
    """

    @property
    def needs_image(self) -> bool:
        return True

    @cached_property
    def face(self) -> FaceFeatures | None:
        """The face that was set here, or that of `face.safetensors` in the pipeline's folder; None if none is read.

        Raises:
            BackboneError: the transformer reads one, and it is not there or not of its sizes.
        """
        return read_face(self.components.folder, name=self.name) if self.transformer_config.is_train_face else None

    def loading_choices(self) -> dict[str, object]:
        face = self.face if self.components.folder is not None or "face" in self.__dict__ else None
        return super().loading_choices() | ({} if face is None else {"face": face.digest()})

    def sampling_pipeline(self, scheduler: Any) -> Any:  # noqa: ANN401
        if self.params.image_condition in ("none", "every_frame"):
            raise BackboneError(
                f"image_condition is {self.params.image_condition}, but {self.name} reads an image as its first frame"
            )
        return self.components.pipeline(scheduler=scheduler, kind=ConsisIDFirstFramePipeline)

    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        pipeline = self.sampling_pipeline(self.components["scheduler"])
        pixels = self.image_pixels(image).to(self.components.dtype)
        latents = pipeline.image_latents(pixels, num_latent_frames)[0]
        return ImageConditioning(latents, self.face_inputs())

    def face_inputs(self) -> dict[str, Tensor]:
        """Return the face by the transformer's argument names; empty if the transformer reads none.

        Raises:
            BackboneError: as `face`.
        """
        config, face = self.transformer_config, self.face
        if face is None:
            return {}
        given = (face.identity.shape[-1], face.vit_hidden.shape[0], face.vit_hidden.shape[-1])
        wanted = (config.LFE_id_dim, config.LFE_num_scale, config.LFE_vit_dim)
        if given != wanted:
            raise BackboneError(
                f"{self.name} reads an identity of {wanted[0]} channels and {wanted[1]} hidden states of {wanted[2]}; "
                f"the given face has {given[0]}, {given[1]} and {given[2]}: compute it with the models that "
                f"come with this checkpoint"
            )
        identity, hidden = (part.to(self.device, self.components.dtype) for part in (face.identity, face.vit_hidden))
        return {"id_cond": identity, "id_vit_hidden": hidden}

    def placeholder_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"]
    ) -> ImageConditioning | None:
        beside, config = super().placeholder_conditioning(latents), self.transformer_config
        if beside is None or not config.is_train_face:
            return beside
        identity = self.placeholder_tensor(1, config.LFE_id_dim)
        hidden = self.placeholder_tensor(config.LFE_num_scale, 1, _VIT_TOKENS, config.LFE_vit_dim)
        return ImageConditioning(beside.latents, {"id_cond": identity, "id_vit_hidden": hidden})

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Add the features of the face to the inputs."""
        return super().sample(pipeline, recorder, cfg_scale=cfg_scale, **self.face_inputs(), **arguments)
