"""One backbone in one view: the steps, layers and heads to capture, and the contents of a clip's groups."""

from collections.abc import Mapping, Sequence
from functools import cache

import diffusers
import numpy as np
from jaxtyping import Num
from torch import Tensor

from difftrack.backbones import Backbone, BackboneError, PromptEmbedding
from difftrack.datasets import Clip, ClipOutline, working_frames
from difftrack.extraction._encoded_clip import EncodedClip
from difftrack.extraction._params import AnalysisParams, Mode, TrackingViewParams
from difftrack.geometry import TokenGrid
from difftrack.store import DescriptorSpec

__all__ = ["BackboneView"]

CAPTURE_VERSION = 1
"""Increased when the capture of the same weights, params and clip changes; older descriptors are then stale."""


class BackboneView:
    """A backbone and the params of a view, checked against each other.

    Attributes:
        backbone: The backbone that runs.
        params: Params of the view.
        frames_alone: Whether each frame is encoded by itself.
        schedule: Noise levels for clips of a grid.
        steps: Steps to capture.
        layers: Layers to capture.
        heads: Heads to capture.

    Raises:
        BackboneError: the backbone cannot be run at the size, layers, heads or steps that the params ask for.
    """

    def __init__(self, backbone: Backbone, params: AnalysisParams | TrackingViewParams) -> None:
        self.backbone = backbone
        self.params = params
        self.frames_alone = isinstance(params, TrackingViewParams)
        if isinstance(params, AnalysisParams):
            backbone.check_size(params.num_frames, params.height, params.width)
        backbone.check_image_size(params.height, params.width)
        self.schedule = cache(lambda grid: backbone.schedule(params.num_inference_steps, grid=grid))
        self.steps = _chosen("steps", params.steps, params.num_inference_steps)
        self.layers = _chosen("layers", params.layers, backbone.num_layers)
        self.heads = _chosen("heads", params.heads, backbone.num_heads)

    def grid(self, num_frames: int) -> TokenGrid:
        """Return the token layout of this number of frames."""
        size = (self.params.height, self.params.width)
        return self.backbone.token_grid(num_frames, *size, frames_alone=self.frames_alone)

    def resized(self, clip: Clip, groups: Mapping[str, tuple[int, ...]]) -> Num[np.ndarray, "frame height width rgb"]:
        """Resize the frames of a clip for the backbone, up to the last that a group uses."""
        params = self.params
        frames = clip.frames[: 1 + max(max(own) for own in groups.values())]
        return working_frames(frames, height=params.height, width=params.width, convention=params.resize)

    def specs(
        self,
        clip: Clip | ClipOutline | EncodedClip,
        mode: Mode,
        groups: Mapping[str, tuple[int, ...]],
        prompt: PromptEmbedding | None,
    ) -> dict[str, DescriptorSpec]:
        """Describe each of a clip's groups.

        Args:
            clip: The clip at its own size.
            mode: How its steps are visited.
            groups: Frames of each group.
            prompt: Prompt of its branch; None assumes the maximum length.
        """
        fingerprint = clip.fingerprint()
        text_mask = self._text_mask(prompt)
        return {
            group: self._spec(clip, mode, frames, text_mask, fingerprint=fingerprint)
            for group, frames in groups.items()
        }

    def _spec(
        self,
        clip: Clip | ClipOutline | EncodedClip,
        mode: Mode,
        frames: tuple[int, ...],
        text_mask: tuple[bool, ...],
        *,
        fingerprint: str,
    ) -> DescriptorSpec:
        params, grid = self.params, self.grid(len(frames))
        steps = (params.num_inference_steps - 1,) if mode == "clean" else self.steps
        if mode == "denoise":
            steps = tuple(step for step in steps if step >= params.first_step(steps))
        timesteps = self.schedule(grid).timesteps
        return DescriptorSpec(
            steps=steps,
            timesteps=tuple(float(timesteps[step]) for step in steps),
            layers=self.layers,
            heads=self.heads,
            num_channels=self.backbone.num_channels,
            grid=grid,
            frames=tuple(frames[k * grid.temporal_stride] for k in range(grid.num_latent_frames)),
            clip_size=(clip.height, clip.width),
            size=(params.height, params.width),
            kinds=params.descriptors,
            text_mask=text_mask,
            rotary=self.backbone.rotary,
            fingerprint_parts={
                "clip": fingerprint,
                "frames": list(frames),
                "mode": mode,
                **self._experts([timesteps[step] for step in steps]),
                **self._choices(mode),
            },
        )

    def _experts(self, timesteps: Sequence[Tensor]) -> dict[str, object]:
        """Return the expert that runs each kept step, where two share the steps."""
        if not self.backbone.experts:
            return {}
        return {"experts": [self.backbone.expert_at(timestep) for timestep in timesteps]}

    def _text_mask(self, prompt: PromptEmbedding | None) -> tuple[bool, ...]:
        backbone, kinds = self.backbone, self.params.descriptors
        if "cross_query" in kinds:
            if backbone.cross_attention_key is None:
                raise BackboneError(
                    f"{backbone.name} has no cross-attention: its text is part of the joint attention, and `key` "
                    "includes its keys; remove cross_query from the descriptors"
                )
            return (
                (True,) * backbone.text_length if prompt is None else tuple(backbone.cross_text_mask(prompt).tolist())
            )
        if "key" not in kinds:
            return ()
        if prompt is None:
            return (True,) * backbone.num_text_tokens
        return tuple(backbone.text_mask(prompt).tolist())

    def _choices(self, mode: Mode) -> dict[str, object]:
        """Return everything else that changes the numbers."""
        params, backbone = self.params, self.backbone
        start = params.denoise.start if mode == "denoise" else mode
        inverted = start == "ddim_inversion"
        return {
            "capture": CAPTURE_VERSION,
            "diffusers": diffusers.__version__,
            "backbone": backbone.fingerprint,
            **backbone.loading_choices(),
            "frames_alone": self.frames_alone,
            "num_inference_steps": params.num_inference_steps,
            "noise_seed": params.noise_seed if start == "add_noise" else None,
            "inversion": [params.inversion.form, params.inversion.iterations] if inverted else None,
            "prompt": params.prompt,
            "guidance_branch": params.guidance_branch,
            "resize": params.resize,
            **({} if mode != "denoise" else {"denoise": self._walk(start)}),
            **({} if params.feature == "heads" or "feature" not in params.descriptors else {"feature": params.feature}),
        }

    def _walk(self, start: str) -> list[object]:
        """Return how `denoise` reaches the requested steps."""
        return [self.params.first_step(self.steps), start, self.params.denoise.cfg_scale]


def _chosen(name: str, chosen: str | tuple[int, ...], count: int) -> tuple[int, ...]:
    if isinstance(chosen, str):
        return tuple(range(count))
    outside = [index for index in chosen if not 0 <= index < count]
    if outside:
        raise BackboneError(f"{name} {outside} are out of range; there are {name} 0 to {count - 1}")
    return tuple(sorted(chosen))
