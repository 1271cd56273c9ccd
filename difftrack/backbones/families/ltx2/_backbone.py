"""LTX-2: LTX's tokens and a separate stream of sound, which the video's attention does not see."""

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift
from jaxtyping import Float
from torch import Tensor, nn

from difftrack.backbones._conditions import PromptEmbedding
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families.ltx._backbone import LTXBackbone
from difftrack.geometry import TokenGrid

__all__ = ["LTX2Backbone"]

_SOUND = "audio_hidden_states"
_SOUND_TEXT = "audio_encoder_hidden_states"
_ENCODED, _ENCODED_MASK = "encoded", "encoded_mask"


class LTX2Backbone(LTXBackbone):
    """An LTX-2 pipeline from text; video tokens alone are captured.

    The transformer processes sound along with the video. The two streams meet in cross-attention, never in the captured
    attention. The sound of your own clip is unknown, so the streams are isolated, a mode of the transformer. A clip
    that the backbone sampled is captured with its sound at each step, from the trajectory.
    """

    @property
    def text_channels(self) -> int:
        config = self.transformer_config
        return int(config.caption_channels if config.use_prompt_embeddings else config.cross_attention_dim)

    @property
    def _sound_text_channels(self) -> int:
        config = self.transformer_config
        return int(config.caption_channels if config.use_prompt_embeddings else config.audio_cross_attention_dim)

    @property
    def _for_conditions(self) -> bool:
        return False

    @torch.no_grad()
    def embed(self, prompt: str) -> PromptEmbedding:
        self.warn_where_cut(prompt)
        held = SimpleNamespace(tokenizer=self.components["tokenizer"], text_encoder=self.components["text_encoder"])
        encoded, mask = self.components.pipeline_class._get_gemma_prompt_embeds(
            held, prompt, max_sequence_length=self.text_length, device=self.device, dtype=self.components.dtype
        )
        side = held.tokenizer.padding_side
        self.components.release_text()
        tokens, sound_tokens, text_mask = self.components["connectors"](encoded, mask, padding_side=side)
        extras = {_SOUND_TEXT: sound_tokens, _ENCODED: encoded, _ENCODED_MASK: mask}
        return PromptEmbedding(tokens[0], mask=text_mask[0].bool(), extras=extras)

    def prompt_as_read(self, prompt: str) -> str:
        return prompt.strip()

    def placeholder_extras(self) -> dict[str, Tensor]:
        return {_SOUND_TEXT: self.placeholder_tensor(1, self.text_length, self._sound_text_channels)}

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        if grid is None:
            raise BackboneError(f"the noise levels of {self.name} depend on the clip's size: give schedule() its grid")
        scheduler = self.sampling_scheduler()
        limits = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}
        mu = calculate_shift(grid.num_tokens, *(scheduler.config.get(key, value) for key, value in limits.items()))
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps), mu=mu)
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        """With the two streams isolated, one blank token of sound is enough."""
        mask = prompt.mask.long().unsqueeze(0)
        call = inspect.signature(self.components.pipeline_class.__call__).parameters
        return {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "encoder_attention_mask": mask,
            _SOUND_TEXT: prompt.extras[_SOUND_TEXT],
            "audio_encoder_attention_mask": mask,
            _SOUND: torch.zeros(
                1, 1, self.transformer_config.audio_in_channels, dtype=self.components.dtype, device=self.device
            ),
            "audio_num_frames": 1,
            "isolate_modalities": True,
            "num_frames": num_latent_frames,
            "height": rows,
            "width": cols,
            "fps": float(call["frame_rate"].default),
            "use_cross_timestep": bool(call["use_cross_timestep"].default),
        }

    def completed_inputs(self, inputs: Mapping[str, Any], sampled: Mapping[str, Tensor]) -> dict[str, Any]:
        """Pass the noise level twice; if the sound of the step is known, the streams read each other."""
        completed = {**inputs, "sigma": inputs["timestep"]}
        if _SOUND in sampled:
            sound = sampled[_SOUND].to(self.device, self.components.dtype)
            completed |= {_SOUND: sound, "audio_num_frames": sound.shape[1], "isolate_modalities": False}
        return completed

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        empty = self.embed("")
        return {
            "prompt_embeds": prompt.extras[_ENCODED],
            "prompt_attention_mask": prompt.extras[_ENCODED_MASK],
            "negative_prompt_embeds": empty.extras[_ENCODED],
            "negative_prompt_attention_mask": empty.extras[_ENCODED_MASK],
        }

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """Guided by the prompt alone, sound and video alike; the sound that enters each step is kept."""

        def keep_sound(_: nn.Module, __: Any, inputs: dict[str, Any]) -> None:  # noqa: ANN401
            recorder.keep_input(_SOUND, inputs[_SOUND][-num_clips:])  # those of the branch with the prompt come last

        num_clips = len(arguments["prompt_embeds"])
        guidance = {"audio_guidance_scale": cfg_scale, "stg_scale": 0.0, "audio_stg_scale": 0.0}
        guidance |= {"modality_scale": 1.0, "audio_modality_scale": 1.0}
        handle = pipeline.transformer.register_forward_pre_hook(keep_sound, with_kwargs=True)
        try:
            return super().sample(pipeline, recorder, cfg_scale=cfg_scale, **guidance, **arguments)
        finally:
            handle.remove()
