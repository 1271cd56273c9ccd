"""Where clips come from: the renderer, a backbone that samples them, or the user's files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from difftrack.datasets import FolderParams
from difftrack.provenance import Reuse
from difftrack.rendering import RenderSpec, Role

__all__ = ["GeneratedSection", "RenderedSection", "SynthesizeSection"]


@dataclass(frozen=True, slots=True)
class RenderedSection:
    """`synthesize.rendered`: clips of the renderer; clip number i of a kind and split has seed `seed` + i.

    Raises:
        ValueError: a number is out of range.
    """

    easy_object: int = 0
    """Clips of objects that move before a background: clear textures, short ways."""
    easy_scene: int = 0
    """Clips of a scene through which the camera moves."""
    hard_object: int = 0
    """As `easy_object`, with deformation, shadows, exposure changes, motion blur and longer ways."""
    hard_scene: int = 0
    """As `easy_scene`, as hard as `hard_object`."""
    seed: int = 0
    """Of the first clip of each kind; the next has the next."""
    role: Role = "eval"
    """Which textures and random streams; nothing is shared between train, tune and eval."""
    num_frames: int = 17
    """Of every clip."""
    height: int = 128
    """In pixels."""
    width: int = 192
    """In pixels."""
    fps: float = 8.0
    """Frames per second at which the clip plays."""

    def __post_init__(self) -> None:
        for name in ("easy_object", "easy_scene", "hard_object", "hard_scene"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        _check_fps(self.fps)

    def specs(self) -> Iterator[tuple[str, RenderSpec]]:
        """Names and specifications of all clips."""
        for split, kind in (("easy", "object"), ("easy", "scene"), ("hard", "object"), ("hard", "scene")):
            for number in range(self.seed, self.seed + getattr(self, f"{split}_{kind}")):
                spec = RenderSpec(
                    seed=number,
                    role=self.role,
                    kind=kind,  # type: ignore[arg-type]
                    split=split,  # type: ignore[arg-type]
                    num_frames=self.num_frames,
                    height=self.height,
                    width=self.width,
                )
                yield f"rendered-{split}-{kind}-{number:03d}", spec


@dataclass(frozen=True, slots=True)
class GeneratedSection:
    """`synthesize.generated`: clips sampled from a backbone.

    Raises:
        ValueError: a number is out of range.
    """

    backbone: str
    """One of the section `backbones`."""
    prompts: Path
    """One prompt per line."""
    indices: Path | None = None
    """A file with the numbers of the prompts to take; null takes all."""
    images: Path | None = None
    """For image-to-video: a folder of first frames NNN.png, numbered like the prompts."""
    seed: int = 42
    """Of the noise that sampling starts from, the same for every prompt."""
    num_inference_steps: int = 50
    """Denoising steps."""
    cfg_scale: float = 6.0
    """Scale of classifier-free guidance, as the stock pipeline means it."""
    num_frames: int = 17
    """Of every clip; what a backbone can sample is in docs/backbones.md."""
    height: int = 128
    """In pixels."""
    width: int = 192
    """In pixels."""
    fps: float = 8.0
    """Frames per second at which the clip plays."""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; it must be at least 1")
        _check_fps(self.fps)


def _check_fps(fps: float) -> None:
    if not fps > 0:
        raise ValueError(f"fps is {fps}; it must be positive")


@dataclass(frozen=True, slots=True)
class SynthesizeSection:
    """`synthesize`: where clips come from.

    Raises:
        ValueError: a source is asked for and has no section.
    """

    sources: tuple[Literal["rendered", "generated", "folder"], ...]
    """Where clips come from; each has its section below."""
    reuse: Reuse = "exact"
    """Which sampled clips are taken up. exact: those that the same params, code, library versions and loaded weights
    made. params: the same params are enough; the stage names what differs, and the clip records it."""
    keep_bytes: float = 1e9
    """Of clips that are not asked for any more, on disk; beyond it those that were used least recently go."""
    rendered: RenderedSection = field(default_factory=RenderedSection)
    generated: GeneratedSection | None = None
    folder: FolderParams | None = None

    def __post_init__(self) -> None:
        if not self.keep_bytes >= 0:
            raise ValueError(f"keep_bytes is {self.keep_bytes}; it must not be negative")
        for source in self.sources:
            if getattr(self, source) is None:
                raise ValueError(f"sources names {source}, and {source} is null; describe it or leave it out")
