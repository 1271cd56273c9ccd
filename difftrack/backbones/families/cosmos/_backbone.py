"""Cosmos-Predict2 and 2.5: self-attention over video, text by cross-attention, flow matching read from EDM's levels."""

import inspect
import sys
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.utils import is_torchvision_available
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor

from difftrack.backbones._components import ancestry
from difftrack.backbones._conditions import Generated, ImageConditioning, PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._prompt_tokens import PROMPT_MARK, PromptTemplate, chat_template
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._latents import WanLatentsBackbone
from difftrack.backbones.families.cosmos._pipeline import CosmosFirstFramePipeline
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["CosmosBackbone"]

_PREDICT2, _PREDICT25 = "Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline"
_CONDITION = 0.0001
"""Level of a conditioning frame: `sigma_conditioning` of Predict2, `conditional_frame_timestep` of 2.5."""
_EDM = {"sigma_max": 80.0, "sigma_min": 0.002, "sigma_data": 1.0, "final_sigmas_type": "sigma_min"}
"""What the pipeline of Predict2 writes into its scheduler's config."""


class CosmosBackbone(WanLatentsBackbone):
    """A pipeline of Cosmos-Predict2 (from an image) or Predict2.5 (from text; from an image with `first_frame`).

    Predict2 samples in EDM's levels, `x0 + sigma * noise`; its transformer reads `x / (1 + sigma)` at the time
    `t = sigma / (1 + sigma)`, which is `(1 - t) x0 + t noise`, and gives the velocity `noise - x0`. A step of Euler in
    sigma is one of Euler in t, so that its schedule is a flow's, in t. An image is the first latent frame itself, at a
    time of its own near 0.
    """

    text_position = "none"
    cross_attention_key = "attn2"

    @property
    def rotary(self) -> RotaryLayout:
        spatial = self.num_channels // 6 * 2
        return RotaryLayout.halves(self.num_channels - 2 * spatial, spatial, spatial)

    @property
    def text_channels(self) -> int:
        projected = self.transformer_config.use_crossattn_projection
        return int(self.transformer_config["crossattn_proj_in_channels" if projected else "text_embed_dim"])

    @property
    def needs_image(self) -> bool:
        chosen = self.params.image_condition
        if self._edm and chosen == "none":
            raise BackboneError(f"image_condition is none, but {self.name} cannot do without an image")
        return self._edm if chosen == "checkpoint" else chosen != "none"

    @property
    def _edm(self) -> bool:
        return _PREDICT2 in ancestry(self.components.pipeline_class)

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        # The pipelines' own methods, which read these two components alone; a pipeline would ask for its guardrail.
        held = SimpleNamespace(tokenizer=self.components["tokenizer"], text_encoder=self.components["text_encoder"])
        kind = self.components.pipeline_class
        encode = kind._get_t5_prompt_embeds if self._edm else kind._get_prompt_embeds
        tokens = encode(
            held, prompt, max_sequence_length=self.text_length, device=self.device, dtype=self.components.dtype
        )[0]
        self.components.release_text()
        return PromptEmbedding(tokens, mask=torch.ones(len(tokens), dtype=torch.bool, device=tokens.device))

    def prompt_template(self) -> PromptTemplate | None:
        """Predict2.5 asks as in a chat."""
        if self._edm:
            return None
        system = "You are a helpful assistant who will provide prompts to an image generator."
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in (("system", system), ("user", PROMPT_MARK))
        ]
        return chat_template(self.components["tokenizer"], messages, add_generation_prompt=False)

    def text_mask(self, prompt: PromptEmbedding) -> Bool[Tensor, " text_token"]:
        return prompt.mask[:0]

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        """Return timesteps as the transformer reads them: the share of noise."""
        scheduler = self.sampling_scheduler()
        if not self._edm:
            scheduler.set_timesteps(num_inference_steps)
            times = scheduler.sigmas
        else:
            scheduler.set_timesteps(sigmas=torch.linspace(0, 1, num_inference_steps, dtype=torch.float64))
            scheduler.sigmas[-1] = scheduler.sigmas[-2]
            times = _time(scheduler.sigmas)
        steps = times[:num_inference_steps]
        return FlowSchedule(steps, sigmas=times, noise_fractions=steps)

    def sampling_scheduler(self) -> Any:  # noqa: ANN401
        scheduler = super().sampling_scheduler()
        if self._edm:
            scheduler.register_to_config(**_EDM)
        return scheduler

    def latents_as_read(self, latents: Tensor, step: int, scheduler: Any) -> Tensor:  # noqa: ANN401
        if not self._edm:
            return latents
        if step == 0:
            latents = latents * scheduler.config.sigma_max
        return latents * (1 - _time(scheduler.sigmas[step]))

    def condition(
        self, image: Num[np.ndarray, "height width rgb"], num_latent_frames: int, *, frames_alone: bool
    ) -> ImageConditioning:
        if not self.needs_image:
            return super().condition(image, num_latent_frames, frames_alone=frames_alone)
        if self.params.image_condition == "every_frame":
            raise BackboneError(f"image_condition is every_frame, but {self.name} reads an image as its first frame")
        pixels = self.image_pixels(image).to(self.components.dtype).unsqueeze(2)
        with torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.mode().float()[0]
        mean, std = self.latent_statistics(latents)
        scaled = (latents - mean) / std if self._edm else (latents - mean) * (1.0 / std)  # as each pipeline rounds
        return ImageConditioning(scaled.transpose(0, 1))

    def placeholder_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"]
    ) -> ImageConditioning | None:
        return ImageConditioning(self.placeholder_tensor(1, *latents.shape[1:])) if self.needs_image else None

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        return latents if conditioning is None else torch.cat([conditioning.latents.to(latents), latents[1:]])

    def timestep_input(self, timestep: Shaped[Tensor, ""], grid: TokenGrid) -> Tensor:
        """Return a time per latent frame, with a separate one for the image."""
        times = timestep.float().repeat(1, 1, grid.num_latent_frames, 1, 1)
        if self.needs_image:
            level = times.new_tensor(_CONDITION)
            times[:, :, 0] = _time(level) if self._edm else level
        return times.to(self.components.dtype) if self._edm else times

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        if self.transformer_config.concat_padding_mask and not is_torchvision_available():
            raise BackboneError(
                f"{self.name}: its transformer resizes a mask with torchvision, which is not installed: "
                f"pip install torchvision"
            )
        blank: dict[str, Any] = {"dtype": self.components.dtype, "device": self.device}
        mask = torch.zeros(1, 1, num_latent_frames, rows, cols, **blank)
        mask[:, :, :1] = float(self.needs_image)
        inputs: dict[str, Any] = {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "condition_mask": mask,
            "padding_mask": torch.zeros(1, 1, rows * self.spatial_stride, cols * self.spatial_stride, **blank),
        }
        if self._edm:
            inputs["fps"] = inspect.signature(self.components.pipeline_class.__call__).parameters["fps"].default
        return inputs

    def sampling_pipeline(self, scheduler: Any) -> Any:  # noqa: ANN401
        kind = CosmosFirstFramePipeline if self._edm else None
        return self.components.pipeline(scheduler=scheduler, kind=kind, safety_checker=self._guardrail)

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }

    def generate(self, prompt: str, **choices: Any) -> Generated:  # noqa: ANN401
        """As `Backbone.generate`; the guardrail that the model's licence requires checks the prompt first."""
        self._guardrail.to(self.device)
        if not self._guardrail.check_text_safety(prompt):
            raise BackboneError(f"the guardrail of {self.name} refuses the prompt {prompt!r}")
        return super().generate(prompt, **choices)

    def sample(self, pipeline: Any, recorder: TrajectoryRecorder, **arguments: Any) -> Any:  # noqa: ANN401
        """Predict2.5 receives an image as a clip of one frame, which it reads without torchvision."""
        if not self._edm and "image" in arguments:
            arguments |= {"video": [arguments.pop("image")], "num_latent_conditional_frames": 1}
        return super().sample(pipeline, recorder, **arguments)

    @cached_property
    def _guardrail(self) -> Any:  # noqa: ANN401
        """The checker of the pipeline's own module.

        Raises:
            BackboneError: its package is not installed.
        """
        stock = next(
            kind for kind in self.components.pipeline_class.__mro__ if kind.__name__ in (_PREDICT2, _PREDICT25)
        )
        try:
            return sys.modules[stock.__module__].CosmosSafetyChecker()
        except ImportError as error:
            raise BackboneError(
                f"{self.name} samples behind a guardrail that its licence requires, from the package "
                "cosmos_guardrail: pip install cosmos_guardrail; your own clips can be captured without it"
            ) from error


def _time(sigma: Tensor) -> Tensor:
    """The share of noise at a level of EDM."""
    return sigma / (sigma + 1)
