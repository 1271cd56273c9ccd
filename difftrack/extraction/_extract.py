"""Runs one backbone over many clips: splits a clip into groups and prepares its inputs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from difftrack.backbones import Backbone, PromptEmbedding, Trajectory
from difftrack.datasets import Clip, ClipOutline
from difftrack.extraction._clip_extraction import ClipExtraction
from difftrack.extraction._encoded_clip import EncodedClip
from difftrack.extraction._errors import ExtractionError
from difftrack.extraction._params import AnalysisParams, Mode, TrackingViewParams
from difftrack.extraction._view import BackboneView
from difftrack.store import DescriptorSpec, clip_group
from difftrack.wording import counted

__all__ = ["Extractor"]

_MOST_EMBEDDINGS = 16
"""Number of prompts whose embeddings stay on the device: each may take megabytes, and there may be thousands of clips.
"""


class Extractor(BackboneView):
    """Runs one backbone over clips in one view; a shared prompt is embedded once."""

    def __init__(self, backbone: Backbone, params: AnalysisParams | TrackingViewParams) -> None:
        super().__init__(backbone, params)
        self._embeddings: dict[str, PromptEmbedding] = {}  # least recently used first

    def prepare(
        self,
        clip: Clip | EncodedClip,
        *,
        chunks: Sequence[tuple[int, ...]] | None = None,
        trajectory: Trajectory | None = None,
        resized: Num[np.ndarray, "frame height width rgb"] | None = None,
    ) -> ClipExtraction:
        """Prepare a clip and describe its groups; only the prompt goes through the backbone yet.

        Args:
            clip: A clip of any size, which is resized, or one that is already encoded (`encode_frames`).
            chunks: Frames that run together, for the tracking view.
            trajectory: Trajectory of the clip's sampling, for mode `generate`.
            resized: Result of `resize` for the clip, if it was called before.

        Raises:
            ExtractionError: the clip is too short, or an input that its mode needs is missing.
        """
        mode = self.params.mode.of(clip)
        groups = self.frames_of_groups(clip.name, clip.num_frames, chunks)
        if mode == "generate":
            self._check_trajectory(clip, trajectory, num_frames=len(next(iter(groups.values()))))
        self._check_steps(clip.name, mode)
        sampled = trajectory if mode == "generate" else None
        other = self._other_branch(clip, mode)
        own = self.embed(clip)
        text = self.backbone.text_tokens(self.prompt_of(clip), own)
        return ClipExtraction(self, clip, mode, groups, sampled, own, resized, other, text)

    def resize(
        self, clip: Clip, *, chunks: Sequence[tuple[int, ...]] | None = None
    ) -> Num[np.ndarray, "frame height width rgb"]:
        """Resize the frames of a clip, up to the last that a group uses; nothing is run.

        Raises:
            ExtractionError: the clip is too short.
        """
        return self.resized(clip, self.frames_of_groups(clip.name, clip.num_frames, chunks))

    def outline(
        self, clip: Clip | ClipOutline, *, chunks: Sequence[tuple[int, ...]] | None = None
    ) -> dict[str, DescriptorSpec]:
        """Describe a clip's groups without their text mask: needs no text encoder, and runs nothing.

        Args:
            clip: A clip of any size.
            chunks: Frames that run together, for the tracking view.

        Raises:
            ExtractionError: the clip is too short, or its mode does not visit the requested steps.
        """
        mode = self.params.mode.of(clip)
        self._check_steps(clip.name, mode)
        return self.specs(clip, mode, self.frames_of_groups(clip.name, clip.num_frames, chunks), None)

    def frames_of_groups(
        self, name: str, num_frames: int, chunks: Sequence[tuple[int, ...]] | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Return the groups of a clip, and the frames of each.

        Args:
            name: Name of the clip.
            num_frames: Number of frames of the clip.
            chunks: Frames that run together, for the tracking view.

        Raises:
            ExtractionError: the clip is too short.
        """
        if isinstance(self.params, AnalysisParams):
            if num_frames < self.params.num_frames:
                raise ExtractionError(
                    f"clip {name} has {counted(num_frames, 'frame')}, but extract.analysis.num_frames is "
                    f"{self.params.num_frames}: leave the clip out, or lower num_frames"
                )
            return {clip_group(name): tuple(range(self.params.num_frames))}
        if chunks is None:
            raise ExtractionError(f"clip {name}: the tracking view needs chunks, the frames that run together")
        return {clip_group(name, index): chunk for index, chunk in enumerate(chunks)}

    def embed(self, clip: Clip | EncodedClip) -> PromptEmbedding:
        """Return the embedded prompt of the clip's branch."""
        return self._embedded(self.prompt_of(clip))

    def prompt_of(self, clip: Clip | EncodedClip) -> str:
        """Return the prompt of the clip's branch."""
        empty = self.params.prompt == "empty" or self.params.guidance_branch == "uncond"
        return "" if empty else clip.prompt

    def _other_branch(self, clip: Clip | EncodedClip, mode: Mode) -> PromptEmbedding | None:
        """Return the prompt of the branch that is not captured; None where `denoise` does not use guidance."""
        text = "" if self.params.prompt == "empty" else clip.prompt
        alone = self.params.denoise.cfg_scale == 1 or self.backbone.reads_guidance or not text
        if mode != "denoise" or alone:
            return None
        return self._embedded(text if self.params.guidance_branch == "uncond" else "")

    def _check_steps(self, name: str, mode: Mode) -> None:
        try:
            self.params.check_steps(mode)
        except ValueError as error:
            raise ExtractionError(f"clip {name}: {error}") from error

    def _embedded(self, text: str) -> PromptEmbedding:
        if text not in self._embeddings:
            self._embeddings[text] = self.backbone.embed(text)
        if len(self._embeddings) > _MOST_EMBEDDINGS:
            del self._embeddings[next(iter(self._embeddings))]
        return self._embeddings[text]

    def _check_trajectory(self, clip: Clip | EncodedClip, trajectory: Trajectory | None, *, num_frames: int) -> None:
        if trajectory is None:
            raise ExtractionError(
                f"clip {clip.name}: mode generate needs the trajectory of a clip that this backbone sampled; choose "
                f"add_noise or ddim_inversion"
            )
        scale = self.backbone.spatial_stride
        num_steps, num_latents, _, rows, cols = trajectory.latents.shape
        found = (num_steps, num_latents, rows * scale, cols * scale)
        expected = self.grid(num_frames).num_latent_frames * self.backbone.latents_per_token_frame
        wanted = (self.params.num_inference_steps, expected, self.params.height, self.params.width)
        if found != wanted:
            raise ExtractionError(
                f"clip {clip.name} was sampled with (num_inference_steps, latent frames, height, width) = {found}, "
                f"but the params ask for {wanted}: set num_frames and the size to those of its sampling"
            )
