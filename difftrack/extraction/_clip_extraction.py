"""Runs a backbone over one clip: its latents at each step, and the descriptors of each layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from difftrack.backbones import ImageConditioning, LayerDescriptors, PromptEmbedding, Trajectory
from difftrack.datasets import Clip, working_frames
from difftrack.extraction._capture_plan import CapturePlan
from difftrack.extraction._encoded_clip import EncodedClip
from difftrack.extraction._params import Mode
from difftrack.extraction._step_latents import Visits, clip_noise, denoised_latents, inverted_latents, noised_latents
from difftrack.extraction._view import BackboneView
from difftrack.geometry import TokenGrid
from difftrack.text_tokens import TextTokens

__all__ = ["CapturedUnit", "ClipExtraction", "Unit"]


@dataclass(frozen=True, slots=True)
class CapturedUnit:
    """All descriptors of one layer at one step, on the backbone's device."""

    group: str
    step: int
    layer: int
    tensors: Mapping[str, Float[Tensor, "..."]]
    """Entry of the group's spec -> descriptors, as in `Unit`; in the backbone's dtype."""


@dataclass(frozen=True, slots=True)
class Unit:
    """All descriptors of one layer at one step, in host memory."""

    group: str
    step: int
    layer: int
    arrays: Mapping[str, Num[np.ndarray, "..."]]
    """Entry of the group's spec -> descriptors: `[head, latent_frame, row, col, channel]`, text_key `[head, text_token,
    channel]`; float32, float16, or uint16 holding the bits of bfloat16.
    """


class ClipExtraction:
    """One clip with its prompt embedded and nothing else run yet; made by `Extractor.prepare`.

    Attributes:
        groups: What each of the clip's groups will hold.
        text: Words of its branch's text tokens; None if the backbone does not report them.
        round_trip_errors: Relative error of the inversion of each group that was inverted.
    """

    def __init__(
        self,
        view: BackboneView,
        clip: Clip | EncodedClip,
        mode: Mode,
        frames_of_group: Mapping[str, tuple[int, ...]],
        trajectory: Trajectory | None,
        prompt: PromptEmbedding,
        resized: Num[np.ndarray, "frame height width rgb"] | None = None,
        other_prompt: PromptEmbedding | None = None,
        text: TextTokens | None = None,
    ) -> None:
        self._resized = resized
        self._view = view
        self._clip = clip
        self._mode = mode
        self._frames_of_group = frames_of_group
        self._trajectory = trajectory
        self._prompt = prompt
        self._other_prompt = other_prompt
        self._conditionings: dict[str, ImageConditioning] = {}
        self.round_trip_errors: dict[str, float] = {}
        self.groups = view.specs(clip, mode, frames_of_group, prompt)
        known = text is not None and all(len(text) == spec.num_text_tokens for spec in self.groups.values())
        self.text = text if known else None

    def plan(self, group: str) -> CapturePlan:
        """Plan everything that one of `groups` will hold; `CapturePlan.only` narrows it."""
        return CapturePlan.whole(group, self.groups[group])

    def run(self, plan: CapturePlan, sink: Callable[[CapturedUnit], None]) -> None:
        """Run the backbone, one forward per step, and pass on each layer's descriptors during the forward.

        Args:
            plan: From `plan`, narrowed to the missing units if a run resumes.
            sink: Called once for each (step, layer), in that order. The tensors are views of the model's own: a sink
                that keeps them must copy them.
        """
        if not plan.steps:
            return
        view, group = self._view, plan.group
        schedule = view.schedule(self._grid(group))
        for step, latents in self._visits(group, plan.steps):

            def hand_over(record: LayerDescriptors, step: int = step) -> None:
                sink(CapturedUnit(group, step, record.layer, self._tensors(record, plan)))

            view.backbone.capture_into(
                hand_over,
                latents,
                step,
                schedule,
                self._prompt,
                layers=plan.layers_of_step[step],
                kinds=plan.kinds,
                feature=view.params.feature,
                conditioning=self._conditioning(group),
                inputs=self._inputs_at(step),
            )

    def units(self, plan: CapturePlan) -> Iterator[Unit]:
        """Like `run`, but yield the units one by one, in host memory, which holds the layers of one step at a time."""
        units: list[Unit] = []

        def keep(captured: CapturedUnit) -> None:
            arrays = {entry: _to_numpy(tensor) for entry, tensor in captured.tensors.items()}
            units.append(Unit(plan.group, captured.step, captured.layer, arrays))

        if self._mode in ("ddim_inversion", "denoise"):  # every further run would repeat the sampler's path
            self.run(plan, keep)
            yield from units
            return
        for step, layers in plan.layers_of_step.items():
            self.run(plan.only((step, layer) for layer in layers), keep)
            yield from units
            units.clear()

    def _visits(self, group: str, steps: Sequence[int]) -> Visits:
        view = self._view
        if self._mode == "generate" and self._trajectory is not None:
            sampled = self._trajectory.latents
            return ((step, sampled[step].to(view.backbone.device)) for step in steps)
        latents = self._in_chunk(group, self._latents)
        if self._mode == "clean":
            return ((step, latents) for step in steps)
        schedule = view.schedule(self._grid(group))
        if self._mode == "add_noise":
            return noised_latents(schedule, latents, self._in_chunk(group, self._noise), steps)
        if self._mode == "denoise":
            first = view.params.first_step(view.steps)
            ((_, start),) = self._start(group, latents, first)
            return denoised_latents(schedule, start, partial(self._guided, group), steps, first=first)
        return self._inverted(group, latents, steps)

    def _start(self, group: str, latents: Tensor, step: int) -> Visits:
        """Return the latents that enter the first step of `denoise`."""
        start, schedule = self._view.params.denoise.start, self._view.schedule(self._grid(group))
        if start == "add_noise":
            return noised_latents(schedule, latents, self._in_chunk(group, self._noise), [step])
        return iter([(step, latents)]) if start == "clean" else self._inverted(group, latents, [step])

    def _guided(self, group: str, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return the model's guided output, extrapolated from the unconditional through the conditional branch."""
        view, conditioning = self._view, self._conditioning(group)
        own = view.backbone.predict(latents, timestep, self._prompt, conditioning=conditioning)
        if self._other_prompt is None:
            return own
        other = view.backbone.predict(latents, timestep, self._other_prompt, conditioning=conditioning)
        cond, uncond = (own, other) if view.params.guidance_branch == "cond" else (other, own)
        return uncond + view.params.denoise.cfg_scale * (cond - uncond)

    def _inverted(self, group: str, latents: Tensor, steps: Sequence[int]) -> Visits:
        view = self._view
        schedule = view.schedule(self._grid(group))
        return inverted_latents(
            view.backbone,
            schedule,
            latents,
            self._prompt,
            steps,
            conditioning=self._conditioning(group),
            params=view.params.inversion,
            report=lambda error: self.round_trip_errors.update({group: error}),
        )

    def _inputs_at(self, step: int) -> dict[str, Tensor]:
        """Return the conditioning that sampling passed with the latents, for clips visited as they were sampled."""
        sampled = self._trajectory if self._mode == "generate" else None
        return {} if sampled is None else sampled.inputs_at(step)

    def _conditioning(self, group: str) -> ImageConditioning | None:
        """Return the first frame, or the image that the clip was sampled from, for an image-to-video backbone."""
        backbone = self._view.backbone
        if not backbone.needs_image:
            return None
        if group not in self._conditionings:
            image = None if self._trajectory is None else self._trajectory.image
            if image is None:
                image = self._first_frame(self._frames_of_group[group][0])
            num_latents = self._grid(group).num_latent_frames * backbone.latents_per_token_frame
            conditioning = backbone.condition(image, num_latents, frames_alone=self._view.frames_alone)
            self._conditionings = {group: conditioning}
        return self._conditionings[group]

    def _first_frame(self, number: int) -> Num[np.ndarray, "height width rgb"]:
        """Return a frame as the backbone sees it."""
        if isinstance(self._clip, EncodedClip):
            image: np.ndarray = self._clip.images[number]
            return image
        params, frame = self._view.params, self._clip.frames[number : number + 1]
        only: np.ndarray = working_frames(frame, height=params.height, width=params.width, convention=params.resize)
        first: np.ndarray = only[0]
        return first

    def _grid(self, group: str) -> TokenGrid:
        return self._view.grid(len(self._frames_of_group[group]))

    @cached_property
    def _latents(self) -> Float[Tensor, "latent_frame channel row col"]:
        """Return latents of the frames up to the last one that any group uses, encoded once."""
        if isinstance(self._clip, EncodedClip):
            return self._clip.latents
        resized, self._resized = self._resized, None
        if resized is None:
            resized = self._view.resized(self._clip, self._frames_of_group)
        return self._view.backbone.encode(resized, frames_alone=self._view.frames_alone)

    @cached_property
    def _noise(self) -> Float[Tensor, "latent_frame channel row col"]:
        return clip_noise(self._clip.name, self._latents, seed=self._view.params.noise_seed)

    def _in_chunk(self, group: str, latents: Tensor) -> Tensor:
        """Return the latents of a group's own frames."""
        if not self._view.frames_alone:
            return latents
        fold = self._view.backbone.latents_per_token_frame
        of_frames = latents.unflatten(0, (len(latents) // fold, fold))  # type: ignore[no-untyped-call]
        chunk: Tensor = of_frames[list(self._frames_of_group[group])].flatten(0, 1)
        return chunk.to(self._view.backbone.device)

    def _tensors(self, record: LayerDescriptors, plan: CapturePlan) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {entry: getattr(record, entry) for entry in plan.entries}
        if len(plan.heads) == self._view.backbone.num_heads:
            return tensors
        return {entry: tensor[list(plan.heads)] for entry, tensor in tensors.items()}


def _to_numpy(tensor: Tensor) -> Num[np.ndarray, "..."]:
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.contiguous().view(torch.uint16)
    array: np.ndarray = tensor.to("cpu", copy=True).numpy()
    return array
