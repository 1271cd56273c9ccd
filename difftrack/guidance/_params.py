"""Settings of guided sampling, and the layers that they select."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difftrack.documents import read_json
from difftrack.guidance._errors import GuidanceError
from difftrack.provenance import Reuse

__all__ = ["GuideParams", "Guidance", "Variant", "read_ranking"]

Variant = Literal["zeroed", "masked", "identity", "skip"]
"""How the prediction that guidance steers away from is perturbed. zeroed, masked: frames cannot attend to each other,
with weights dropped after the softmax or before it (cross-attention guidance); identity: every token attends only to
itself (perturbed-attention guidance); skip: the layers are left out (spatiotemporal skip guidance).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """Guidance away from the model's prediction with some layers perturbed.

    In these layers frames cannot attend to each other (cross-attention guidance), tokens attend only to themselves, or
    the layers are skipped.

    Raises:
        GuidanceError: layers are empty, negative or repeated, or there are no steps.
    """

    layers: tuple[int, ...]
    """0-based layers that are perturbed."""
    scale: float = 1.0
    """Strength of guidance; 0 is plain sampling."""
    variant: Variant = "zeroed"
    """How the layers are perturbed; `zeroed` is the paper's."""
    from_step: int = 0
    """First guided step, 0 = noisiest."""
    until_step: int | None = None
    """First step after the guided ones; None guides to the end."""

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise GuidanceError(f"layers are {list(self.layers)}; expected at least one layer from 0 on, each once")
        if self.from_step < 0 or (self.until_step is not None and self.until_step <= self.from_step):
            raise GuidanceError(
                f"until_step ({self.until_step}) must be greater than from_step ({self.from_step}); step 0 is the "
                "noisiest"
            )

    def applies(self, step: int) -> bool:
        """Return whether a step is guided."""
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideParams:
    """`guide`: the samples, and how they are guided.

    Raises:
        ValueError: a number is out of range, or layers or steps are empty.
    """

    backbone: str
    """Name in the section `backbones`."""
    prompts: Path
    """Prompt file, one prompt per line."""
    images: Path | None = None
    """For image-to-video: a folder of first frames NNN.png, numbered like the prompts."""
    layers: Literal["best"] | tuple[int, ...] = "best"
    """0-based layers that are perturbed; `best` takes the first of `best_layers.json`."""
    num_best_layers: int = 3
    """Number of layers that `best` takes."""
    variant: Variant = "zeroed"
    """`zeroed` drops weights between frames after the softmax, as the paper does; `masked` before it. For comparison:
    `identity` lets every token attend only to itself (PAG), `skip` skips the layers (STG).
    """
    scale: float = 1.0
    """Strength of guidance away from the perturbed prediction; 0 is plain sampling."""
    cfg_scale: float = 6.0
    """Scale of classifier-free guidance, as the stock pipeline means it."""
    from_step: int = 0
    """First guided step, 0 = noisiest."""
    until_step: int | None = None
    """First step after the guided ones; null guides to the end."""
    compare: bool = True
    """Also sample without guidance, from the same seed, and show both side by side."""
    seed: int = 42
    """Seed of the initial noise, the same for every prompt and variant."""
    num_inference_steps: int = 50
    """Denoising steps."""
    num_frames: int = 17
    """Frames of every sample; docs/backbones.md lists what a backbone can sample."""
    height: int = 128
    """Height in pixels."""
    width: int = 192
    """Width in pixels."""
    fps: float = 8.0
    """Frames per second of the video files."""
    reuse: Reuse = "exact"
    """exact: reuse samples made with the same params, code, library versions and weights. params: the same params are
    enough; the stage names other differences, and the samples record them.
    """
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
            raise ValueError(f"from_step is {self.from_step}, but the last step is {self.num_inference_steps - 1}")
        self.guidance((0,) if self.layers == "best" else self.layers)

    def guidance(self, layers: Sequence[int]) -> Guidance:
        """Return the guidance with these layers."""
        return Guidance(
            layers=tuple(layers),
            scale=self.scale,
            variant=self.variant,
            from_step=self.from_step,
            until_step=self.until_step,
        )

    def ways(self, ranking: Sequence[int] | None) -> Mapping[str, Guidance | None]:
        """Return the variants in which every prompt is sampled: name -> guidance; None is plain sampling.

        Args:
            ranking: Layers from best to worst; needed if `layers` is `best`.

        Raises:
            GuidanceError: there is no ranking, or it is too short.
        """
        layers = best_layers(ranking, self.num_best_layers) if self.layers == "best" else self.layers
        plain = {"plain": None} if self.compare else {}
        return {**plain, "guided": self.guidance(layers)}


def best_layers(ranking: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Return the first layers of a ranking, in the order of the network.

    Raises:
        GuidanceError: there is no ranking, or it has fewer layers.
    """
    if ranking is None or len(ranking) < num_layers:
        raise GuidanceError(
            f"guide.layers asks for the best {num_layers} layers, but the ranking is {list(ranking or [])}; run the "
            "score stage, or list the layers in guide.layers"
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
