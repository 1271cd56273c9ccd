"""Settings of the report."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from difftrack.correspondence import MatchKind

__all__ = ["OverlayParams", "ReportParams"]

_NARROW_PX = 400
_SMALLEST_RADIUS_PX = 1.25
_WIDTHS_PER_RADIUS = 130
_RADII_PER_SPACING = 10
"""Distance of points in radii at which a grid of points covers a twentieth of the picture."""


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
    """Radius of a point in pixels of the picture; null takes 1/130 of its width, or a tenth of the distance between
    points if there are many.
    """
    jump_share: float = 0.06
    """A trail breaks where a point jumps: by more than this share of the picture's diagonal between frames, and by four
    times the median step of all points.
    """
    brightness: float = 0.8
    """Brightness of the clip under the tracks, 0-1."""

    def __post_init__(self) -> None:
        if self.trail_frames < 0:
            raise ValueError(f"trail_frames is {self.trail_frames}; it must be 0 or more")
        if self.upscale is not None and self.upscale < 1:
            raise ValueError(f"upscale is {self.upscale}; it must be 1 or more")
        if self.point_radius_px is not None and not 0 < self.point_radius_px < math.inf:
            raise ValueError(f"point_radius_px is {self.point_radius_px}; it must be positive and finite")
        if not 0 < self.jump_share <= 1:
            raise ValueError(f"jump_share is {self.jump_share}; it must be greater than 0 and at most 1")
        if not 0 <= self.brightness <= 1:
            raise ValueError(f"brightness is {self.brightness}; it must lie in 0-1")

    def scale(self, width: int) -> int:
        """Return the pixels of the picture per pixel of a clip with this width."""
        if self.upscale is None:
            return 2 if width < _NARROW_PX else 1
        return self.upscale

    def radius_px(self, height: int, width: int, num_points: int) -> float:
        """Return the radius of a point in the picture of a clip of `height` x `width` pixels with this many points."""
        if self.point_radius_px is not None:
            return self.point_radius_px
        scale = self.scale(width)
        spacing = scale * (height * width / max(num_points, 1)) ** 0.5
        return float(max(_SMALLEST_RADIUS_PX, min(scale * width / _WIDTHS_PER_RADIUS, spacing / _RADII_PER_SPACING)))


@dataclass(frozen=True, slots=True)
class ReportParams:
    """Contents of the report; no setting here changes a number.

    Raises:
        ValueError: a list is empty, or a count is negative.
    """

    title: str = "Where a video diffusion transformer keeps track of points"
    """Title of the page."""
    layers: Literal["auto"] | tuple[int, ...] = "auto"
    """Layers of the match-probability maps and the colour pictures; auto: the best and the worst by accuracy."""
    steps: Literal["auto"] | tuple[int, ...] = "auto"
    """Denoising steps of these pictures; auto: the first, the middle and the last stored one."""
    heads: Literal["all"] | tuple[int, ...] = "all"
    """all: mean over heads; a list: each of these heads alone."""
    positions: Literal["auto"] | tuple[tuple[float, float], ...] = "auto"
    """Points whose probabilities are drawn, (x, y) in pixels of the clip in frame 0; auto: two that move far and, if
    possible, stay a tenth of the shorter side away from the edges.
    """
    token_positions: tuple[tuple[int, int], ...] | None = None
    """Alternative to `positions`: (row, column) of tokens whose centres are the points; the released flags --pos_h and
    --pos_w.
    """
    kinds: tuple[MatchKind, ...] = ("query_key",)
    """Kinds by which these points are matched in pictures and trajectories: queries with keys, or a kind with itself,
    with all frequencies.
    """
    frames: Literal["auto", "all"] = "auto"
    """Latent frames that are drawn. auto: five in match-probability maps and three in colour pictures. all: every one.
    """
    trajectories: bool = False
    """Draw videos of a clip's points, followed by each of these layers and steps alone."""
    clips: Literal["auto", "all"] | tuple[str, ...] = "auto"
    """Clips of these pictures; auto: the first of each source, those with exact truth first."""
    causes: Path | None = None
    """An ablation.json of `difftrack ablate`, shown for the backbone with the same weights; null: the study of the
    shipped backbone that comes with the package."""
    max_videos: int = 12
    """Maximum number of clips drawn as videos; the tables list all of them."""
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
