"""What the report shows."""

from dataclasses import dataclass, field
from typing import Literal

from difftrack.correspondence import MatchKind

__all__ = ["OverlayParams", "ReportParams"]

_NARROW_PX = 400
_SMALLEST_RADIUS_PX = 1.25
_WIDTHS_PER_RADIUS = 130
_RADII_PER_SPACING = 10
"""Points of a grid of that many radii cover a twentieth of the picture."""


@dataclass(frozen=True, slots=True)
class OverlayParams:
    """How tracks are drawn.

    Raises:
        ValueError: a value is out of its range.
    """

    trail_frames: int = 8
    """Frames after which a trail has faded to a third; 0 draws no trail."""
    upscale: int | None = None
    """Pixels of the picture per pixel of the clip; null doubles clips narrower than 400 pixels."""
    point_radius_px: float | None = None
    """Radius of a point in pixels of the picture; null takes a 130th of its width, and a tenth of the distance between
    points where there are many."""
    jump_share: float = 0.06
    """A trail breaks where a point jumps: by more than this share of the picture's diagonal from one frame to the next,
    and four times as far as half of the points."""
    brightness: float = 0.8
    """Brightness of the clip under the tracks, 0-1."""

    def __post_init__(self) -> None:
        if self.trail_frames < 0:
            raise ValueError(f"trail_frames is {self.trail_frames}; it must be 0 or more")
        if self.upscale is not None and self.upscale < 1:
            raise ValueError(f"upscale is {self.upscale}; it must be 1 or more")
        if self.point_radius_px is not None and self.point_radius_px <= 0:
            raise ValueError(f"point_radius_px is {self.point_radius_px}; it must be positive")
        if not 0 < self.jump_share <= 1:
            raise ValueError(f"jump_share is {self.jump_share}; it must lie in 0-1, 0 excepted")
        if not 0 <= self.brightness <= 1:
            raise ValueError(f"brightness is {self.brightness}; it must lie in 0-1")

    def scale(self, width: int) -> int:
        """Pixels of the picture per pixel of a clip that is `width` pixels wide."""
        if self.upscale is None:
            return 2 if width < _NARROW_PX else 1
        return self.upscale

    def radius_px(self, height: int, width: int, num_points: int) -> float:
        """Radius of a point in the picture of a clip of `height` x `width` pixels that shows so many points."""
        if self.point_radius_px is not None:
            return self.point_radius_px
        scale = self.scale(width)
        spacing = scale * (height * width / max(num_points, 1)) ** 0.5
        return float(max(_SMALLEST_RADIUS_PX, min(scale * width / _WIDTHS_PER_RADIUS, spacing / _RADII_PER_SPACING)))


@dataclass(frozen=True, slots=True)
class ReportParams:
    """What the report shows; nothing here changes a number.

    Raises:
        ValueError: a list is empty, or a count is negative.
    """

    title: str = "Where a video diffusion transformer keeps track of points"
    """Title of the page."""
    layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Layers of the match-probability maps and the colour pictures; auto: the best and the worst by accuracy."""
    steps: Literal["auto"] | tuple[int, ...] = "auto"
    """Denoising steps of the same; auto: the first, the middle and the last that were kept."""
    heads: Literal["all"] | tuple[int, ...] = "all"
    """all: mean over heads; a list: each of these heads on its own."""
    positions: Literal["auto"] | tuple[tuple[float, float], ...] = "auto"
    """Points whose probabilities are drawn, (x, y) in pixels of the clip in frame 0; auto: two that move far and, where
    such exist, keep a tenth of the shorter side from the edges."""
    token_positions: tuple[tuple[int, int], ...] | None = None
    """Instead of `positions`: (row, column) of tokens, whose centres are the points; the released flags --pos_h and
    --pos_w."""
    kinds: tuple[MatchKind, ...] = ("query_key",)
    """What those points are matched by in the pictures, and in the trajectories: queries with keys, or a kind with
    itself; all frequencies take part."""
    frames: Literal["auto", "all"] = "auto"
    """Latent frames that are drawn: five of the match-probability maps and three of the colour pictures, or all."""
    trajectories: bool = False
    """Draw the trajectory of a clip's points by each of those layers and steps alone on the clip, as a video."""
    clips: Literal["auto", "all"] | tuple[str, ...] = "auto"
    """Clips of the same pictures; auto: the first of each source, those of exact truth before others."""
    max_videos: int = 12
    """Most clips that are drawn as videos; the tables hold all of them."""
    overlay: OverlayParams = field(default_factory=OverlayParams)
    """How tracks are drawn."""

    def __post_init__(self) -> None:
        for name in ("layers", "steps", "heads", "positions", "clips", "token_positions", "kinds"):
            if getattr(self, name) == ():
                raise ValueError(f"{name} is empty; give at least one, or leave the default")
        if self.token_positions is not None and self.positions != "auto":
            raise ValueError("positions and token_positions are both given; give one of the two")
        if self.token_positions and min(min(position) for position in self.token_positions) < 0:
            raise ValueError(f"token_positions is {list(map(list, self.token_positions))}; tokens count from 0")
        if self.max_videos < 0:
            raise ValueError(f"max_videos is {self.max_videos}; it must be 0 or more")
