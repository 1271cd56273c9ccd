"""Draws tracks on the frames of a clip: fading trails, filled points where visible, hollow ones where occluded."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from difftrack.reports._params import OverlayParams
from difftrack.reports._style import point_colors

__all__ = ["captioned", "draw_tracks", "drawn_frames", "side_by_side", "size_beside", "with_legend"]

_SUBPIXEL_BITS = 4
_PANEL_GAP_PX = 8
_GAP_GRAY = 24
_CAPTION_PX = 22
"""Height of the strip with a panel's name."""
_CAPTION_SCALE = 0.45
_CAPTION_MARGIN_PX = 6
_TIMES_USUAL = 4.0
"""A long step is a jump if it is this many times as long as the median of all points."""


def draw_tracks(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    points_xy_px: Float[np.ndarray, "frame point xy"],
    visible: Bool[np.ndarray, "frame point"],
    *,
    query_frames: Sequence[int] | None = None,
    params: OverlayParams | None = None,
) -> UInt8[np.ndarray, "frame out_row out_col rgb"]:
    """Draw tracks on a clip in memory; see `drawn_frames`.

    Returns:
        The drawn frames, `params.scale(width)` times as high and wide.
    """
    return np.stack(list(drawn_frames(frames, points_xy_px, visible, query_frames=query_frames, params=params)))


def drawn_frames(
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
    points_xy_px: Float[np.ndarray, "frame point xy"],
    visible: Bool[np.ndarray, "frame point"],
    *,
    query_frames: Sequence[int] | None = None,
    params: OverlayParams | None = None,
) -> Iterator[UInt8[np.ndarray, "out_row out_col rgb"]]:
    """Draw tracks on a stream of frames, with a colour per point by its start position.

    A trail follows a point only while it is visible and does not jump, so it bridges neither an occlusion nor an error.

    Args:
        frames: The clip; no more frames are drawn than the tracks have.
        points_xy_px: (x, y) in pixels of `frames`; a point that is not finite in some frame is not drawn there.
        visible: True where the point is visible; elsewhere it is drawn hollow.
        query_frames: Frame from which each point exists; default 0.
        params: Size of points and length of trails.

    Yields:
        Drawn frames, `params.scale(width)` times as high and wide.
    """
    params = params or OverlayParams()
    num_points = points_xy_px.shape[1]
    starts = np.zeros(num_points, dtype=np.int64) if query_frames is None else np.asarray(query_frames, np.int64)
    start_xy = np.nan_to_num(points_xy_px[starts, np.arange(num_points)])
    colors = [tuple(map(int, color)) for color in point_colors(start_xy)]
    drawable = np.isfinite(points_xy_px).all(-1) & (np.arange(len(visible))[:, None] >= starts)
    trail, scale, radius_px, jump_px = None, 1, 1.0, 0.0
    for index, frame in enumerate(islice(frames, len(visible))):
        if trail is None:
            height, width = frame.shape[:2]
            scale, radius_px = params.scale(width), params.radius_px(height, width, num_points)
            trail = _Trail(height * scale, width * scale, params.trail_frames, radius_px)
            jump_px = params.jump_share * scale * float(np.hypot(height, width))
        picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        picture = cv2.convertScaleAbs(picture, alpha=params.brightness)
        here = points_xy_px[index].astype(np.float64) * scale
        if params.trail_frames and index:
            before = points_xy_px[index - 1].astype(np.float64) * scale
            seen = drawable[index - 1] & drawable[index] & visible[index - 1] & visible[index]
            trail.advance(before, here, seen & ~_jumps(before, here, seen, jump_px), colors)
            picture = trail.over(picture)
        yield _draw_points(picture, here, drawable[index], visible[index], colors, radius_px)


def _jumps(
    before: Float[np.ndarray, "point xy"],
    here: Float[np.ndarray, "point xy"],
    seen: Bool[np.ndarray, " point"],
    jump_px: float,
) -> Bool[np.ndarray, " point"]:
    """Detect jumps: points that moved far, and much farther than half of the points."""
    steps = np.where(seen, np.linalg.norm(np.where(seen[:, None], here - before, 0), axis=-1), 0)
    usual = float(np.median(steps[seen])) if seen.any() else 0.0
    return np.asarray(steps > max(jump_px, _TIMES_USUAL * usual))


def with_legend(
    frames: Iterable[UInt8[np.ndarray, "row col rgb"]], *, radius_px: float, trail_frames: int
) -> Iterator[UInt8[np.ndarray, "legend_row col rgb"]]:
    """Add a strip under each frame that explains filled points, hollow points and lines.

    Args:
        frames: Drawn frames.
        radius_px: Radius of their points.
        trail_frames: Length of their trails; 0 for none.
    """
    strip = None
    for frame in frames:
        if strip is None:
            strip = _legend(frame.shape[1], radius_px, trail_frames)
        yield np.concatenate([frame, strip])


def _legend(width: int, radius_px: float, trail_frames: int) -> UInt8[np.ndarray, "row col rgb"]:
    """Return as many explanations as fit."""
    strip = np.full((_CAPTION_PX, width, 3), _GAP_GRAY, dtype=np.uint8)
    entries = ["seen", "hidden, a guess", *([f"path of the last {trail_frames} frames"] if trail_frames else [])]
    middle, radius, x = _CAPTION_PX // 2, round(min(max(radius_px, 3.0), 5.0)), _CAPTION_MARGIN_PX
    color = (230, 180, 60)
    for number, entry in enumerate(entries):
        (text_px, _), _ = cv2.getTextSize(entry, cv2.FONT_HERSHEY_SIMPLEX, _CAPTION_SCALE, 1)
        if x + 3 * radius + 6 + text_px > width:
            break
        center = (x + radius, middle)
        if number == 2:
            cv2.line(strip, (x, middle), (x + 2 * radius, middle), color, 2, cv2.LINE_AA)
        else:
            cv2.circle(strip, center, radius, color, 1 if number else -1, cv2.LINE_AA)
        place = (x + 2 * radius + 6, middle + 5)
        cv2.putText(strip, entry, place, cv2.FONT_HERSHEY_SIMPLEX, _CAPTION_SCALE, (230, 230, 230), 1, cv2.LINE_AA)
        x = place[0] + text_px + 3 * _CAPTION_MARGIN_PX
    return strip


def captioned(
    frames: UInt8[np.ndarray, "frame row col rgb"], caption: str
) -> UInt8[np.ndarray, "frame captioned_row col rgb"]:
    """Add a dark strip with a caption above a clip; narrow clips have smaller letters."""
    strip = np.full((_CAPTION_PX, frames.shape[2], 3), _GAP_GRAY, dtype=np.uint8)
    (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, _CAPTION_SCALE, 1)
    scale = _CAPTION_SCALE * min(1.0, (frames.shape[2] - 2 * _CAPTION_MARGIN_PX) / width)
    place = (_CAPTION_MARGIN_PX, _CAPTION_PX - 7)
    cv2.putText(strip, caption, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(strip, (len(frames), *strip.shape)), frames], axis=1)


def side_by_side(
    panels: Sequence[UInt8[np.ndarray, "frame row _ rgb"]],
) -> UInt8[np.ndarray, "frame row wide rgb"]:
    """Join clips of equal height side by side with a narrow dark gap, so that they play in sync."""
    gap = np.full((*panels[0].shape[:2], _PANEL_GAP_PX, 3), _GAP_GRAY, dtype=np.uint8)
    parts: list[np.ndarray] = [panels[0]]
    for panel in panels[1:]:
        parts += [gap, panel]
    return np.concatenate(parts, axis=2)


def size_beside(height: int, width: int, num_panels: int, params: OverlayParams) -> tuple[int, int]:
    """Return (height, width) of `num_panels` captioned clips side by side, each of `height` x `width` pixels."""
    scale = params.scale(width)
    return scale * height + _CAPTION_PX, num_panels * scale * width + (num_panels - 1) * _PANEL_GAP_PX


class _Trail:
    """An image of past motion that fades with every frame."""

    def __init__(self, height: int, width: int, trail_frames: int, radius_px: float) -> None:
        self._color = np.zeros((height, width, 3), dtype=np.uint8)
        self._opacity = np.zeros((height, width), dtype=np.uint8)
        self._keep = float(np.exp(-1 / max(trail_frames, 1)))
        self._thickness = max(1, round(0.7 * radius_px))

    def advance(
        self,
        before: Float[np.ndarray, "point xy"],
        now: Float[np.ndarray, "point xy"],
        moving: Bool[np.ndarray, " point"],
        colors: Sequence[tuple[int, ...]],
    ) -> None:
        self._opacity = np.asarray(cv2.convertScaleAbs(self._opacity, alpha=self._keep), np.uint8)
        for point in np.flatnonzero(moving).tolist():
            ends = _fixed(before[point]), _fixed(now[point])
            cv2.line(self._color, *ends, colors[point], self._thickness + 1, cv2.LINE_8, _SUBPIXEL_BITS)
            cv2.line(self._opacity, *ends, (230,), self._thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def over(self, picture: UInt8[np.ndarray, "row col rgb"]) -> UInt8[np.ndarray, "row col rgb"]:
        share = cv2.merge([self._opacity] * 3)
        above = cv2.multiply(self._color, share, scale=1 / 255)
        below = cv2.multiply(picture, cv2.bitwise_not(share), scale=1 / 255)
        mixed: np.ndarray = cv2.add(above, below)
        return mixed


def _draw_points(
    picture: UInt8[np.ndarray, "row col rgb"],
    points: Float[np.ndarray, "point xy"],
    drawable: Bool[np.ndarray, " point"],
    visible: Bool[np.ndarray, " point"],
    colors: Sequence[tuple[int, ...]],
    radius_px: float,
) -> UInt8[np.ndarray, "row col rgb"]:
    radius = round(radius_px * (1 << _SUBPIXEL_BITS))
    rim = radius + (1 << _SUBPIXEL_BITS)
    for point in np.flatnonzero(drawable & _near(points, picture)).tolist():
        center = _fixed(points[point])
        if visible[point]:
            cv2.circle(picture, center, rim, (20, 20, 20), -1, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.circle(picture, center, radius, colors[point], -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        else:
            cv2.circle(picture, center, rim, (20, 20, 20), 1, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.circle(picture, center, radius, colors[point], 1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return picture


def _near(points: Float[np.ndarray, "point xy"], picture: UInt8[np.ndarray, "row col rgb"]) -> np.ndarray:
    """Return whether points are in or just outside the picture: far ones would overflow fixed-point drawing."""
    size = np.asarray([picture.shape[1], picture.shape[0]])
    return np.asarray(((points > -0.5 * size) & (points < 1.5 * size)).all(-1))


def _fixed(point_xy: Float[np.ndarray, " xy"]) -> tuple[int, int]:
    """Convert continuous raster coordinates to OpenCV's fixed point, whose integers are pixel centres."""
    x, y = np.clip(np.round((point_xy - 0.5) * (1 << _SUBPIXEL_BITS)), -(1 << 20), 1 << 20)
    return int(x), int(y)
