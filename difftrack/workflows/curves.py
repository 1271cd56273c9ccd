"""The probe of the shipped backbone's training: one number per layer, for two views, easy and hard clips."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from diffusers import CogVideoXPipeline

from difftrack.backbones import wrap_pipeline
from difftrack.datasets import Clip, TrackedVideo, Tracks
from difftrack.metrics import combine_clips
from difftrack.training import ProbeClip
from difftrack.workflows.probe import EmergenceProbe, ProbeParams

__all__ = ["LayerCurves"]

NUM_STEPS = 50
_FPS = 8.0


class LayerCurves:
    """Matching accuracy per layer, as logged in the shipped backbone's training: for two views, easy and hard clips.

    Args:
        clips: Clips of one size and length.
        autoencoder: Encodes them once, in the transformer's own precision.
        tokenizer: Reads their prompts.
    """

    def __init__(self, clips: Sequence[ProbeClip], autoencoder: Any, tokenizer: Any) -> None:  # noqa: ANN401
        self._clips = clips
        self._parts = (deepcopy(autoencoder), tokenizer)
        self._probes: dict[tuple[str, str], EmergenceProbe] = {}
        self._measured: Any = None

    def accuracy(
        self,
        denoiser: Any,  # noqa: ANN401 - a transformer and a text encoder
        scheduler: Any,  # noqa: ANN401
        timestep: int,
    ) -> dict[str, dict[str, list[float]]]:
        """Compute the share of visible points that each layer matches within one token: view -> split -> layers.

        Args:
            denoiser: Model whose `transformer` and `text_encoder` run; the same objects at every call.
            scheduler: Scheduler with the levels of training.
            timestep: The noise level; one of the schedule of 50 steps.
        """
        if self._measured is not denoiser:
            self._probes, self._measured = self._prepare(denoiser, scheduler), denoiser
        found: dict[str, dict[str, list[float]]] = {}
        for (view, split), probe in self._probes.items():
            schedule = probe.backbone.schedule(NUM_STEPS).timesteps
            step = int((schedule - timestep).abs().argmin())
            if int(schedule[step]) != timestep:
                raise ValueError(f"timestep {timestep} is not in the schedule of {NUM_STEPS} steps")
            probe.params = replace(probe.params, steps=(step,))
            probe.embed_again()
            means = combine_clips(probe.measure())
            shares = means["matching_accuracy"].values[0].tolist()
            found.setdefault(view, {})[split] = [round(float(share), 4) for share in shares]
        return found

    def _prepare(self, denoiser: Any, scheduler: Any) -> dict[tuple[str, str], EmergenceProbe]:  # noqa: ANN401
        autoencoder, tokenizer = self._parts
        autoencoder.to(next(denoiser.transformer.parameters()).dtype)
        pipeline = CogVideoXPipeline(tokenizer, denoiser.text_encoder, autoencoder, denoiser.transformer, scheduler)
        backbone = wrap_pipeline(pipeline)
        params = ProbeParams(num_inference_steps=NUM_STEPS, per_head=False)
        return {
            (view, split): EmergenceProbe(
                backbone,
                [_tracked(clip, number) for number, clip in enumerate(self._clips) if clip.spec.split == split],
                replace(params, frames_alone=view == "apart"),
            )
            for view in ("whole", "apart")
            for split in dict.fromkeys(clip.spec.split for clip in self._clips)
        }


def _tracked(clip: ProbeClip, number: int) -> TrackedVideo:
    points = clip.points_xy_px.astype(np.float32)
    queries = np.insert(points[0], 0, 0, axis=1).astype(np.float32)
    tracks = Tracks(points, clip.visible, queries, clip.spec.height, clip.spec.width, "exact")
    return TrackedVideo(Clip(f"probe-{number}", clip.frames.cpu().numpy(), _FPS, clip.prompt, "rendered"), tracks)
