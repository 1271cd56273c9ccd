"""Helios: generates a clip in chunks; each attends to the earlier ones, in coarser tokens the longer ago they were."""

from typing import Any

import numpy as np
import torch
from diffusers.pipelines.helios.pipeline_helios import calculate_shift
from jaxtyping import Float
from torch import Tensor

from difftrack.backbones._conditions import ImageConditioning, PromptEmbedding
from difftrack.backbones._descriptors import SequencePart
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones._schedule import FlowSchedule
from difftrack.backbones.families._umt5_text import Umt5TextBackbone
from difftrack.geometry import TokenGrid
from difftrack.rotary import RotaryLayout

__all__ = ["HeliosBackbone"]

_LONG, _MID, _SHORT = 16, 2, 1
"""Latent frames of history, the stock pipeline's default; the first frame of all is added to the short history."""
_COARSER = {"long": 4, "mid": 2}
"""Latent frames and tokens along both image axes that one token of history combines."""


class HeliosBackbone(Umt5TextBackbone):
    """A Helios pipeline, from text. A clip is one chunk.

    Tokens of the history precede the clip's tokens in the attention's sequence: `long`, `mid`, the `first` frame of
    all, and the previous frame (`short`). `LayerDescriptors.history` has them by these names. The history of a first
    chunk is zeros, as in the stock pipeline; `history` makes that of a later chunk.
    """

    @property
    def rotary(self) -> RotaryLayout:
        return RotaryLayout.interleaved(*self.transformer_config.rope_dim)

    @property
    def draws_own_noise(self) -> bool:
        """The stock pipeline does not accept latents."""
        return True

    def schedule(self, num_inference_steps: int, *, grid: TokenGrid | None = None) -> FlowSchedule:
        scheduler = self.sampling_scheduler()
        shift = {"mu": self._shift(scheduler.config, grid)} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(
            num_inference_steps, sigmas=np.linspace(0.999, 0.0, num_inference_steps + 1)[:-1], **shift
        )
        return FlowSchedule(scheduler.timesteps, sigmas=scheduler.sigmas, noise_fractions=scheduler.sigmas[:-1])

    def _shift(self, config: Any, grid: TokenGrid | None) -> float:  # noqa: ANN401
        """The scheduler's shift for a chunk of that size, by the stock pipeline's rule."""
        if grid is None:
            raise BackboneError(f"the noise levels of {self.name} depend on the clip's size: give schedule() its grid")
        limits = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        return float(calculate_shift(grid.num_tokens, *(config.get(name, usual) for name, usual in limits.items())))

    def sequence_parts(self, grid: TokenGrid) -> tuple[SequencePart, ...]:
        frames = {"long": _LONG, "mid": _MID}
        coarse = (
            SequencePart(name, frames[name] // fold, -(-grid.rows // fold), -(-grid.cols // fold))
            for name, fold in _COARSER.items()
        )
        fine = (SequencePart(name, 1, grid.rows, grid.cols) for name in ("first", "short"))
        return (*coarse, *fine, *super().sequence_parts(grid))

    def history(self, latents: Float[Tensor, "latent_frame channel row col"]) -> ImageConditioning:
        """Make the `conditioning` for a capture of the next chunk from the clean latents before it.

        Args:
            latents: Latents of all frames before the chunk, beginning with the first of the clip.
        """
        _, _, rows, cols = latents.shape
        return ImageConditioning(latents.new_empty(0, 0, rows, cols), self._history_of(latents))

    def with_conditioning(
        self, latents: Float[Tensor, "latent_frame channel row col"], conditioning: ImageConditioning | None
    ) -> Float[Tensor, "latent_frame channels_read row col"]:
        """Return the latents unchanged: the transformer reads the history as a separate input."""
        return latents

    def transformer_inputs(
        self, prompt: PromptEmbedding, num_latent_frames: int, rows: int, cols: int
    ) -> dict[str, Any]:
        positions = torch.arange(1 + _LONG + _MID + _SHORT + num_latent_frames).unsqueeze(0)
        first, long, mid, short, chunk = torch.split(positions, [1, _LONG, _MID, _SHORT, num_latent_frames], dim=1)
        return {
            "encoder_hidden_states": prompt.tokens.unsqueeze(0),
            "indices_hidden_states": chunk,
            "indices_latents_history_short": torch.cat([first, short], dim=1),
            "indices_latents_history_mid": mid,
            "indices_latents_history_long": long,
            **self._history_of(torch.empty(0, self.num_latent_channels, rows, cols)),
        }

    def _history_of(self, latents: Float[Tensor, "latent_frame channel row col"]) -> dict[str, Tensor]:
        """Return the history by the transformer's argument names; missing frames are zeros."""
        latents = latents.to(self.device, self.components.dtype)
        kept = _LONG + _MID + _SHORT
        known = torch.cat([latents.new_zeros(kept, *latents.shape[1:]), latents])[-kept:]
        long, mid, short = (self.to_batch(part) for part in torch.split(known, [_LONG, _MID, _SHORT]))
        first = latents[:1] if len(latents) else latents.new_zeros(1, *latents.shape[1:])
        return {
            "latents_history_short": torch.cat([self.to_batch(first), short], dim=2),
            "latents_history_mid": mid,
            "latents_history_long": long,
        }

    def sampling_inputs(self, prompt: PromptEmbedding) -> dict[str, Any]:
        return {
            "prompt_embeds": prompt.tokens.unsqueeze(0),
            "negative_prompt_embeds": self.embed("").tokens.unsqueeze(0),
        }

    def sample(
        self,
        pipeline: Any,  # noqa: ANN401
        recorder: TrajectoryRecorder,
        *,
        cfg_scale: float,
        **arguments: Any,  # noqa: ANN401
    ) -> Float[np.ndarray, "frame height width rgb"]:
        """As one chunk, however long the clip is."""
        num_latent_frames = (arguments["num_frames"] - 1) // self.temporal_stride + 1
        return super().sample(
            pipeline, recorder, cfg_scale=cfg_scale, num_latent_frames_per_chunk=num_latent_frames, **arguments
        )
