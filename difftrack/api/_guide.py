"""Samples a prompt with cross-attention guidance, next to the same seed without."""

import base64
import html
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from difftrack.backbones import Backbone
from difftrack.guidance import Guidance, Variant, calls_at, check_layers, guided
from difftrack.media import write_video
from difftrack.quality import VideoMeasures, measure_video

__all__ = ["GuidedVideo", "guide"]


@dataclass(frozen=True, slots=True, eq=False)
class GuidedVideo:
    """Samples of one prompt and one seed, with guidance and without."""

    prompt: str
    guidance: Guidance
    frames: UInt8[np.ndarray, "frame row col rgb"]
    """Sample with guidance."""
    plain: UInt8[np.ndarray, "frame row col rgb"] | None
    """Sample without guidance; None if it was not requested."""
    fps: float

    @property
    def measures(self) -> dict[str, VideoMeasures]:
        """Motion, consistency and sharpness of each video, by `guided` and `plain`."""
        plain = {} if self.plain is None else {"plain": measure_video(self.plain)}
        return {"guided": measure_video(self.frames), **plain}

    def save(self, path: str | Path) -> Path:
        """Write an mp4 of the guided video, with the plain one, if any, on the left."""
        file = Path(path)
        write_video(file, self._beside(), self.fps, lossless=False)
        return file

    def _beside(self) -> UInt8[np.ndarray, "frame row wide rgb"]:
        return self.frames if self.plain is None else np.concatenate([self.plain, self.frames], axis=2)

    def __repr__(self) -> str:
        frames, height, width, _ = self.frames.shape
        return (
            f"<GuidedVideo {self.prompt!r}: {frames} frames of {width}x{height} px, layers "
            f"{', '.join(map(str, self.guidance.layers))}, scale {self.guidance.scale:g}>"
        )

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            data = base64.b64encode(self.save(Path(folder) / "guided.mp4").read_bytes()).decode()
        sides = "guided" if self.plain is None else "left: plain, right: guided"
        about = html.escape(repr(self))
        return f'<p>{about}; {sides}</p><video controls loop muted src="data:video/mp4;base64,{data}"></video>'


def guide(
    model: Backbone,
    prompt: str,
    *,
    layers: Sequence[int],
    scale: float = 1.0,
    variant: Variant = "zeroed",
    from_step: int = 0,
    until_step: int | None = None,
    cfg_scale: float = 6.0,
    seed: int = 42,
    num_inference_steps: int = 50,
    size: tuple[int, int, int] | None = None,
    image: UInt8[np.ndarray, "image_row image_col rgb"] | None = None,
    fps: float = 8.0,
    compare: bool = True,
) -> GuidedVideo:
    """Sample a prompt, steered away from predictions in which frames cannot attend to each other.

    Args:
        model: Result of `load_backbone` or `wrap`.
        prompt: Prompt of the video.
        layers: Layers in which frames are cut off from each other, such as `scores.best(3)`.
        scale: Strength of guidance away from the perturbed prediction; 0 is plain sampling.
        variant: `zeroed` drops weights between frames after the softmax, as the paper does; `masked` before it.
        from_step: First guided step, 0 the noisiest.
        until_step: First step after the guided ones; None guides to the end.
        cfg_scale: Scale of classifier-free guidance.
        seed: Seed of the noise that sampling starts from.
        num_inference_steps: Denoising steps.
        size: (frames, height, width); by default the size that the backbone was trained on.
        image: First frame, for an image-to-video backbone.
        fps: Rate of the video files.
        compare: Also sample the same seed without guidance.

    Raises:
        BackboneError: the backbone cannot sample this size, or a layer does not exist.
        ValueError: a number is out of range.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 4.2: cross-attention guidance.
    """
    from difftrack.api._extract import trained_clip

    num_frames, height, width = size or trained_clip(model)
    guidance = Guidance(
        layers=tuple(sorted(layers)), scale=scale, variant=variant, from_step=from_step, until_step=until_step
    )

    def sample() -> UInt8[np.ndarray, "frame row col rgb"]:
        return model.generate(
            prompt,
            seed=seed,
            num_inference_steps=num_inference_steps,
            cfg_scale=cfg_scale,
            num_frames=num_frames,
            height=height,
            width=width,
            image=image,
        ).frames

    grid = model.token_grid(num_frames, height, width)
    check_layers(guidance, model.num_layers)
    plain = sample() if compare else None
    with guided(model, guidance, grid=grid, calls=calls_at(cfg_scale)):
        return GuidedVideo(prompt, guidance, sample(), plain, fps)
