"""What the report shows."""

from dataclasses import dataclass, field
from typing import Literal

from difftrack.reports._overlay import OverlayParams

__all__ = ["ReportParams"]


@dataclass(frozen=True, slots=True)
class ReportParams:
    """What the report shows; nothing here changes a number.

    Raises:
        ValueError: a list is empty, or a count is negative.
    """

    title: str = "Where a video diffusion transformer keeps track of points"
    """Of the page."""
    layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Layers of the match-probability maps and the colour pictures; auto: the best and the worst by accuracy."""
    steps: Literal["auto"] | tuple[int, ...] = "auto"
    """Denoising steps of the same; auto: the first, the middle and the last that were kept."""
    heads: Literal["all"] | tuple[int, ...] = "all"
    """all: mean over heads; a list: each of these heads on its own."""
    positions: Literal["auto"] | tuple[tuple[float, float], ...] = "auto"
    """Points whose probabilities are drawn, (x, y) in pixels of the clip in frame 0; auto: two that move far and, where
    such exist, keep a tenth of the shorter side from the edges."""
    clips: Literal["auto"] | tuple[str, ...] = "auto"
    """Clips of the same pictures; auto: the first of each source, those of exact truth before others."""
    max_videos: int = 12
    """Most clips that are drawn as videos; the tables hold all of them."""
    overlay: OverlayParams = field(default_factory=OverlayParams)
    """How tracks are drawn."""

    def __post_init__(self) -> None:
        for name in ("layers", "steps", "heads", "positions", "clips"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one, or leave the default")
        if self.max_videos < 0:
            raise ValueError(f"max_videos is {self.max_videos}; it must be 0 or more")
