"""One backbone over many clips: what each clip's groups will hold, and then the descriptors, unit by unit."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from difftrack.backbones import Backbone, BackboneError, LayerDescriptors, PromptEmbedding
from difftrack.datasets import Clip, working_frames
from difftrack.extraction._errors import ExtractionError
from difftrack.extraction._params import AnalysisParams, Mode, TrackingViewParams
from difftrack.extraction._visits import Visits, clip_noise, inverted_latents, noised_latents
from difftrack.store import DescriptorSpec, clip_group

__all__ = ["ClipExtraction", "Extractor", "Unit"]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is written at once: all descriptors of one layer at one step."""

    group: str
    step: int
    layer: int
    arrays: Mapping[str, Num[np.ndarray, "..."]]
    """By entry of the group's spec: `[head, latent_frame, row, col, channel]`, text_key `[head, text_token, channel]`;
    float32, float16, or uint16 holding the bits of bfloat16."""


class Extractor:
    """Runs one backbone over clips in one view; a prompt is embedded once however many clips have it.

    Raises:
        BackboneError: the backbone cannot be run at the size, layers, heads or steps that the params ask for.
    """

    def __init__(self, backbone: Backbone, params: AnalysisParams | TrackingViewParams) -> None:
        self.backbone = backbone
        self.params = params
        self.frames_alone = isinstance(params, TrackingViewParams)
        num_frames = params.num_frames if isinstance(params, AnalysisParams) else 1
        backbone.check_size(num_frames, params.height, params.width, frames_alone=self.frames_alone)
        self.schedule = backbone.schedule(params.num_inference_steps)
        self.steps = _chosen("steps", params.steps, params.num_inference_steps)
        self.layers = _chosen("layers", params.layers, backbone.num_layers)
        self.heads = _chosen("heads", params.heads, backbone.num_heads)
        self._embeddings: dict[str, PromptEmbedding] = {}

    def prepare(
        self,
        clip: Clip,
        *,
        chunks: Sequence[tuple[int, ...]] | None = None,
        trajectory: Float[Tensor, "step latent_frame channel row col"] | None = None,
    ) -> "ClipExtraction":
        """Say what a clip's groups will hold; nothing but the prompt goes through the backbone yet.

        Args:
            clip: At any size; it is resized.
            chunks: Frames that run together, for the tracking view.
            trajectory: Latents entering each step, for clips in mode `generate`.

        Raises:
            ExtractionError: the clip is too short, or its mode needs something else than what is given.
        """
        mode = self.params.mode.of(clip)
        if isinstance(self.params, AnalysisParams):
            if clip.num_frames < self.params.num_frames:
                raise ExtractionError(
                    f"clip {clip.name} has {clip.num_frames} frames; num_frames is {self.params.num_frames}"
                )
            groups = {clip_group(clip.name): tuple(range(self.params.num_frames))}
        elif chunks is None:
            raise ExtractionError(f"clip {clip.name}: the tracking view needs to be told which frames run together")
        else:
            groups = {clip_group(clip.name, index): chunk for index, chunk in enumerate(chunks)}
        if mode == "generate":
            self._check_trajectory(clip, trajectory)
        if mode == "clean" and self.params.num_inference_steps - 1 not in self.steps:
            raise ExtractionError(
                f"clip {clip.name}: mode clean visits the last step, {self.params.num_inference_steps - 1}; steps are "
                f"{list(self.steps)}"
            )
        return ClipExtraction(self, clip, mode, groups, trajectory)

    def embed(self, clip: Clip) -> PromptEmbedding:
        """The prompt that the clip's branch reads."""
        empty = self.params.prompt == "empty" or self.params.guidance_branch == "uncond"
        text = "" if empty else clip.prompt
        if text not in self._embeddings:
            self._embeddings[text] = self.backbone.embed(text)
        return self._embeddings[text]

    def _check_trajectory(self, clip: Clip, trajectory: Tensor | None) -> None:
        if trajectory is None:
            raise ExtractionError(
                f"clip {clip.name}: mode generate needs the trajectory of a clip that this backbone sampled; choose "
                f"add_noise or ddim_inversion"
            )
        scale = self.backbone.spatial_stride
        found = (len(trajectory), trajectory.shape[-2] * scale, trajectory.shape[-1] * scale)
        wanted = (self.params.num_inference_steps, self.params.height, self.params.width)
        if found != wanted:
            raise ExtractionError(
                f"clip {clip.name} was sampled with (num_inference_steps, height, width) = {found}; the params ask for "
                f"{wanted}"
            )


class ClipExtraction:
    """One clip on its way through a backbone.

    Attributes:
        groups: What each of the clip's groups will hold.
        round_trip_errors: Relative error of the inversion of each group that was inverted.
    """

    def __init__(
        self,
        extractor: Extractor,
        clip: Clip,
        mode: Mode,
        frames_of_group: Mapping[str, tuple[int, ...]],
        trajectory: Tensor | None,
    ) -> None:
        self._extractor = extractor
        self._clip = clip
        self._mode = mode
        self._frames_of_group = frames_of_group
        self._trajectory = trajectory
        self._prompt = extractor.embed(clip)
        self.round_trip_errors: dict[str, float] = {}
        self.groups: dict[str, DescriptorSpec] = {group: self._spec(own) for group, own in frames_of_group.items()}

    def units(self, group: str, wanted: Iterable[tuple[int, int]]) -> Iterator[Unit]:
        """Run the backbone, one forward per step, and give the wanted units of a group as they come.

        Args:
            group: One of `groups`.
            wanted: (step, layer), such as those that a resumed run still misses.
        """
        layers_of_step: dict[int, list[int]] = defaultdict(list)
        for step, layer in wanted:
            layers_of_step[step].append(layer)
        extractor = self._extractor
        for step, latents in self._visits(group, sorted(layers_of_step)) if layers_of_step else ():
            records = extractor.backbone.capture(
                latents,
                step,
                extractor.schedule,
                self._prompt,
                layers=layers_of_step[step],
                kinds=extractor.params.descriptors,
            )
            for record in records:
                yield Unit(group, step, record.layer, self._arrays(record))

    def _visits(self, group: str, steps: Sequence[int]) -> Visits:
        extractor = self._extractor
        if self._mode == "generate" and self._trajectory is not None:
            trajectory = self._trajectory
            return ((step, trajectory[step].to(extractor.backbone.device)) for step in steps)
        latents = self._in_chunk(group, self._latents)
        if self._mode == "clean":
            return ((step, latents) for step in steps)
        if self._mode == "add_noise":
            return noised_latents(extractor.schedule, latents, self._in_chunk(group, self._noise), steps)
        return inverted_latents(
            extractor.backbone,
            extractor.schedule,
            latents,
            self._prompt,
            steps,
            params=extractor.params.inversion,
            report=lambda error: self.round_trip_errors.update({group: error}),
        )

    @cached_property
    def _latents(self) -> Float[Tensor, "latent_frame channel row col"]:
        """Of the frames up to the last that any group uses, encoded once."""
        params = self._extractor.params
        frames = self._clip.frames[: 1 + max(max(own) for own in self._frames_of_group.values())]
        resized = working_frames(frames, height=params.height, width=params.width, convention=params.resize)
        return self._extractor.backbone.encode(resized, frames_alone=self._extractor.frames_alone)

    @cached_property
    def _noise(self) -> Float[Tensor, "latent_frame channel row col"]:
        return clip_noise(self._clip.name, self._latents, seed=self._extractor.params.noise_seed)

    @cached_property
    def _clip_fingerprint(self) -> str:
        return self._clip.fingerprint()

    def _in_chunk(self, group: str, latents: Tensor) -> Tensor:
        """The latents of a group's own frames."""
        if not self._extractor.frames_alone:
            return latents
        fold = self._extractor.backbone.latents_per_token_frame
        of_frames = latents.unflatten(0, (len(latents) // fold, fold))  # type: ignore[no-untyped-call]
        chunk: Tensor = of_frames[list(self._frames_of_group[group])].flatten(0, 1)
        return chunk

    def _spec(self, frames: tuple[int, ...]) -> DescriptorSpec:
        extractor, clip = self._extractor, self._clip
        backbone, params = extractor.backbone, extractor.params
        grid = backbone.token_grid(len(frames), params.height, params.width, frames_alone=extractor.frames_alone)
        last_step = params.num_inference_steps - 1
        steps = (last_step,) if self._mode == "clean" else extractor.steps
        text_mask = backbone.text_mask(self._prompt).tolist() if "key" in params.descriptors else []
        return DescriptorSpec(
            steps=steps,
            timesteps=tuple(float(extractor.schedule.timesteps[step]) for step in steps),
            layers=extractor.layers,
            heads=extractor.heads,
            num_channels=backbone.num_channels,
            grid=grid,
            frames=tuple(frames[k * grid.temporal_stride] for k in range(grid.num_latent_frames)),
            clip_size=(clip.height, clip.width),
            size=(params.height, params.width),
            kinds=params.descriptors,
            text_mask=tuple(text_mask),
            fingerprint_parts=self._fingerprint_parts(frames),
        )

    def _fingerprint_parts(self, frames: tuple[int, ...]) -> dict[str, object]:
        params, backbone = self._extractor.params, self._extractor.backbone
        inverted = self._mode == "ddim_inversion"
        return {
            "backbone": backbone.fingerprint,
            "dtype": backbone.params.dtype,
            "vae_tiling": backbone.params.vae_tiling,
            "clip": self._clip_fingerprint,
            "frames": list(frames),
            "frames_alone": self._extractor.frames_alone,
            "mode": self._mode,
            "num_inference_steps": params.num_inference_steps,
            "noise_seed": params.noise_seed if self._mode == "add_noise" else None,
            "inversion": [params.inversion.form, params.inversion.iterations] if inverted else None,
            "prompt": params.prompt,
            "guidance_branch": params.guidance_branch,
            "resize": params.resize,
        }

    def _arrays(self, record: LayerDescriptors) -> dict[str, Num[np.ndarray, "..."]]:
        kinds = self._extractor.params.descriptors
        tensors: dict[str, Tensor] = {kind: getattr(record, kind) for kind in kinds}
        if "key" in kinds and len(record.text_mask):
            tensors["text_key"] = record.text_key
        heads = list(self._extractor.heads)
        return {name: _to_numpy(tensor[heads]) for name, tensor in tensors.items()}


def _chosen(name: str, chosen: str | tuple[int, ...], count: int) -> tuple[int, ...]:
    if isinstance(chosen, str):
        return tuple(range(count))
    outside = [index for index in chosen if not 0 <= index < count]
    if outside:
        raise BackboneError(f"{name} {outside} are out of range; there are {name} 0 to {count - 1}")
    return tuple(sorted(chosen))


def _to_numpy(tensor: Tensor) -> Num[np.ndarray, "..."]:
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.contiguous().view(torch.uint16)
    array: np.ndarray = tensor.cpu().numpy()
    return array
