"""What a person chooses about guided sampling, and which layers that means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difftrack.documents import read_json
from difftrack.guidance._errors import GuidanceError
from difftrack.provenance import Reuse

__all__ = ["GuideParams", "Guidance", "Variant", "read_ranking"]

Variant = Literal["zeroed", "masked", "identity", "skip"]
"""How the prediction comes about that guidance goes away from. zeroed, masked: no frame sees another, weights dropped
after the softmax or before it (cross-attention guidance); identity: every token attends to itself alone
(perturbed-attention guidance); skip: the layers are left out (spatiotemporal skip guidance)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """Guidance away from what the model predicts when some of its layers are perturbed.

    Frames cannot see each other there (cross-attention guidance), tokens see themselves alone, or the layers are left
    out.

    Raises:
        GuidanceError: there is no layer, one is named twice or negative, or the steps are none.
    """

    layers: tuple[int, ...]
    """0-based layers that are perturbed."""
    scale: float = 1.0
    """How far to go; 0 is plain sampling."""
    variant: Variant = "zeroed"
    """How the layers are perturbed; `zeroed` is the paper's."""
    from_step: int = 0
    """First guided step, 0 = noisiest."""
    until_step: int | None = None
    """First step that is not guided any more; None guides to the end."""

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise GuidanceError(f"layers are {list(self.layers)}; expected at least one layer from 0 on, each once")
        if self.from_step < 0 or (self.until_step is not None and self.until_step <= self.from_step):
            raise GuidanceError(f"steps from {self.from_step} until {self.until_step} are none; 0 is the noisiest")

    def applies(self, step: int) -> bool:
        """Whether a step is guided."""
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideParams:
    """`guide`: what is sampled, and how it is guided.

    Raises:
        ValueError: a number is out of range, or the layers or steps are none.
    """

    backbone: str
    """One of the section `backbones`."""
    prompts: Path
    """Prompt file, one prompt per line."""
    images: Path | None = None
    """For image-to-video: a folder of first frames NNN.png, numbered like the prompts."""
    layers: Literal["best"] | tuple[int, ...] = "best"
    """0-based layers that are perturbed; `best` takes the first of `best_layers.json`."""
    num_best_layers: int = 3
    """How many layers `best` takes."""
    variant: Variant = "zeroed"
    """`zeroed` drops weights between frames after the softmax, as the paper does; `masked` before it. For comparison:
    `identity` lets every token attend to itself alone (PAG), `skip` leaves the layers out (STG)."""
    scale: float = 1.0
    """How far to go away from the perturbed prediction; 0 is plain sampling."""
    cfg_scale: float = 6.0
    """Scale of classifier-free guidance, as the stock pipeline means it."""
    from_step: int = 0
    """First guided step, 0 = noisiest."""
    until_step: int | None = None
    """First step that is not guided any more; null guides to the end."""
    compare: bool = True
    """Sample without guidance too, from the same seed, and put both side by side."""
    seed: int = 42
    """Seed of the initial noise, the same for every prompt and variant."""
    num_inference_steps: int = 50
    """Denoising steps."""
    num_frames: int = 17
    """Frames of every sample; docs/backbones.md lists what a backbone can sample."""
    height: int = 128
    """In pixels."""
    width: int = 192
    """In pixels."""
    fps: float = 8.0
    """Frames per second of the video files."""
    reuse: Reuse = "exact"
    """exact: take up samples that the same params, code, library versions and loaded weights made. params: the same
    params are enough; the stage names what differs, and the samples record it."""
    keep_bytes: float = 1e9
    """Maximum bytes of kept samples that no params need; beyond it, the least recently used are removed."""

    def __post_init__(self) -> None:
        for name in ("num_best_layers", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be positive")
        if not self.keep_bytes >= 0:
            raise ValueError(f"keep_bytes is {self.keep_bytes}; it must not be negative")
        if self.from_step >= self.num_inference_steps:
            raise ValueError(f"from_step is {self.from_step}, and there are {self.num_inference_steps} steps from 0 on")
        self.guidance((0,) if self.layers == "best" else self.layers)

    def guidance(self, layers: Sequence[int]) -> Guidance:
        """Guidance by these layers."""
        return Guidance(
            layers=tuple(layers),
            scale=self.scale,
            variant=self.variant,
            from_step=self.from_step,
            until_step=self.until_step,
        )

    def ways(self, ranking: Sequence[int] | None) -> Mapping[str, Guidance | None]:
        """The ways in which every prompt is sampled, by name; None is plain sampling.

        Args:
            ranking: Layers from best to worst; needed where `layers` is `best`.

        Raises:
            GuidanceError: there is no ranking, or it is too short.
        """
        layers = best_layers(ranking, self.num_best_layers) if self.layers == "best" else self.layers
        plain = {"plain": None} if self.compare else {}
        return {**plain, "guided": self.guidance(layers)}


def best_layers(ranking: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """The first layers of a ranking, in the order of the network.

    Raises:
        GuidanceError: there is no ranking, or it has fewer layers.
    """
    if ranking is None or len(ranking) < num_layers:
        raise GuidanceError(
            f"the best {num_layers} layers are asked for, and ranked are {list(ranking or [])}; run the score stage, "
            f"or name the layers in guide.layers"
        )
    return tuple(sorted(ranking[:num_layers]))


def read_ranking(path: Path) -> list[int]:
    """Read the layers of `best_layers.json`, from best to worst.

    Raises:
        GuidanceError: the file is missing or holds no ranking.
    """
    try:
        layers = read_json(path)["layers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GuidanceError(f"{path} holds no ranking of layers ({error}); the score stage writes it") from error
    if not all(isinstance(layer, int) for layer in layers):
        raise GuidanceError(f"{path}: layers are {layers!r}; expected whole numbers, best first")
    return list(layers)
