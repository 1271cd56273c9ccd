"""Strips of pictures, one tile per latent frame: a point's match probability, or descriptors as colours."""

from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

__all__ = ["draw_match_strip", "frame_strip", "pca_colors", "pca_strip", "spread_indices", "without_position"]

_TILE_WIDTH_PX = 288
_GAP_PX = 6
_GAP_COLOR = 24
_HEAT = "inferno"
_RING_PX = 11
_DARK = (20, 20, 20)
_LIGHT = (255, 255, 255)


def spread_indices(count: int, *, most: int) -> list[int]:
    """Return at most `most` indices below `count`, evenly spread, including the first and last."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most)).tolist()})


def pca_colors(
    descriptors: Float[np.ndarray, "latent_frame row col channel"],
) -> UInt8[np.ndarray, "latent_frame row col rgb"]:
    """Show descriptors as colours: their three principal components, one basis for all latent frames.

    The sign of a component is fixed so that its largest loading is positive; colours span the 1st to 99th percentile.
    Constant descriptors are black.
    """
    from sklearn.decomposition import PCA  # the import takes half a second

    flat = descriptors.reshape(-1, descriptors.shape[-1]).astype(np.float32)
    if not np.ptp(flat, axis=0).any():  # all tokens are equal, so there are no components
        return np.zeros((*descriptors.shape[:3], 3), dtype=np.uint8)
    num_components = min(3, flat.shape[1])
    pca = PCA(n_components=num_components, svd_solver="covariance_eigh").fit(flat)
    largest = np.abs(pca.components_).argmax(axis=1)
    signs = np.sign(pca.components_[np.arange(num_components), largest])
    scores = pca.transform(flat) * signs
    low, high = np.percentile(scores, (1, 99), axis=0)
    unit = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    colors = np.zeros((len(flat), 3), dtype=np.uint8)
    colors[:, :num_components] = np.round(255 * unit)
    return colors.reshape(*descriptors.shape[:3], 3)


def without_position(
    descriptors: Float[np.ndarray, "latent_frame row col channel"],
) -> Float[np.ndarray, "latent_frame row col channel"]:
    """Subtract the means of rows, columns and latent frames.

        y[t, r, c] = x[t, r, c] - (x[., r, .] - m) - (x[., ., c] - m) - (x[t, ., .] - m) - m

    A dot denotes the mean over an axis, m the mean of all tokens. Rotary positions turn a channel pair by the frame,
    the row or the column alone, so the turned mean descriptor appears as stripes that outweigh the content. The
    remaining part is still turned by its position.
    """
    residual = descriptors.astype(np.float32)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        residual = residual - residual.mean(axis=others, keepdims=True)
    return residual


def frame_strip(frames: UInt8[np.ndarray, "tile row col rgb"]) -> UInt8[np.ndarray, "strip_row strip_col rgb"]:
    """Join plain frames side by side, as the heading of other strips."""
    return side_by_side([_enlarge(frame, cv2.INTER_AREA) for frame in frames])


def pca_strip(colors: UInt8[np.ndarray, "tile row col rgb"]) -> UInt8[np.ndarray, "strip_row strip_col rgb"]:
    """Join colour grids side by side, every token a square."""
    return side_by_side([_enlarge(tile, cv2.INTER_NEAREST) for tile in colors])


def draw_match_strip(
    source_frame: UInt8[np.ndarray, "row col rgb"],
    target_frames: UInt8[np.ndarray, "tile row col rgb"],
    probabilities: Float[np.ndarray, "tile token_row token_col"],
    *,
    point_xy_px: Float[np.ndarray, " xy"],
    matches_xy_px: Float[np.ndarray, "tile xy"],
    truth_xy_px: Float[np.ndarray, "tile xy"] | None = None,
) -> UInt8[np.ndarray, "strip_row strip_col rgb"]:
    """Draw one query point and its match probability in each frame.

    Each tile's heat is scaled to its own maximum, over the darkened frame; a ring marks the match, a cross the truth.

    Args:
        source_frame: Frame of the query point.
        target_frames: Frames that it is matched in.
        probabilities: Match probability over the token grid, per target frame.
        point_xy_px: The query point, (x, y) in pixels of the frames.
        matches_xy_px: Its match in each target frame, in pixels of the frames.
        truth_xy_px: Its true position, NaN where it is not visible; None if the truth is unknown.
    """
    scale = _TILE_WIDTH_PX / source_frame.shape[1]
    first = _enlarge(source_frame, cv2.INTER_AREA)
    _ring(first, point_xy_px, scale)
    tiles = [first]
    truths = np.full_like(matches_xy_px, np.nan) if truth_xy_px is None else truth_xy_px
    for frame, heat, match, truth in zip(target_frames, probabilities, matches_xy_px, truths, strict=True):
        tile = _heat_over(_enlarge(frame, cv2.INTER_AREA), heat)
        _ring(tile, match, scale)
        _cross(tile, truth, scale)
        tiles.append(tile)
    return side_by_side(tiles)


def _heat_over(
    picture: UInt8[np.ndarray, "row col rgb"], heat: Float[np.ndarray, "token_row token_col"]
) -> UInt8[np.ndarray, "row col rgb"]:
    size = (picture.shape[1], picture.shape[0])
    strength = heat / max(float(np.nanmax(heat)), 1e-12)
    colors = np.round(255 * matplotlib.colormaps[_HEAT](strength)[..., :3]).astype(np.uint8)
    blocks = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    opacity = cv2.resize(np.sqrt(strength).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)[..., None]
    gray = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    base = 0.4 * picture + 0.25 * gray
    mixed: np.ndarray = np.round(base * (1 - 0.9 * opacity) + blocks * 0.9 * opacity).astype(np.uint8)
    return mixed


def _ring(tile: UInt8[np.ndarray, "row col rgb"], point_xy_px: Float[np.ndarray, " xy"], scale: float) -> None:
    """Put a white ring with a dark rim around a point."""
    center = _fixed_point(tile, point_xy_px, scale)
    if center:
        cv2.circle(tile, center, 16 * _RING_PX, _DARK, 5, cv2.LINE_AA, 4)
        cv2.circle(tile, center, 16 * _RING_PX, _LIGHT, 2, cv2.LINE_AA, 4)


def _cross(tile: UInt8[np.ndarray, "row col rgb"], point_xy_px: Float[np.ndarray, " xy"], scale: float) -> None:
    """Put a white cross with a dark rim on a point."""
    center = _fixed_point(tile, point_xy_px, scale)
    if center:
        x, y = center
        arm = 16 * _RING_PX // 2
        for color, thickness in ((_DARK, 5), (_LIGHT, 2)):
            cv2.line(tile, (x - arm, y - arm), (x + arm, y + arm), color, thickness, cv2.LINE_AA, 4)
            cv2.line(tile, (x - arm, y + arm), (x + arm, y - arm), color, thickness, cv2.LINE_AA, 4)


def _fixed_point(
    tile: UInt8[np.ndarray, "row col rgb"], point_xy_px: Float[np.ndarray, " xy"], scale: float
) -> tuple[int, int] | None:
    """Return a point's position for OpenCV, in 1/16 pixel; None if it is not finite or far outside the tile."""
    x, y = (float(value) * scale for value in point_xy_px)
    if not (abs(x) < 4 * tile.shape[1] and abs(y) < 4 * tile.shape[0]):
        return None
    return round(16 * (x - 0.5)), round(16 * (y - 0.5))


def _enlarge(tile: UInt8[np.ndarray, "row col rgb"], interpolation: int) -> UInt8[np.ndarray, "tile_row tile_col rgb"]:
    height = round(tile.shape[0] * _TILE_WIDTH_PX / tile.shape[1])
    if interpolation == cv2.INTER_AREA and tile.shape[1] < _TILE_WIDTH_PX:
        interpolation = cv2.INTER_CUBIC
    resized: np.ndarray = cv2.resize(tile, (_TILE_WIDTH_PX, height), interpolation=interpolation)
    return resized


def side_by_side(tiles: Sequence[UInt8[np.ndarray, "row col rgb"]]) -> UInt8[np.ndarray, "row strip_col rgb"]:
    """Join tiles of one height into a row, with a gap between them."""
    gap = np.full((tiles[0].shape[0], _GAP_PX, 3), _GAP_COLOR, dtype=np.uint8)
    parts: list[np.ndarray] = [tiles[0]]
    for tile in tiles[1:]:
        parts += [gap, tile]
    return np.concatenate(parts, axis=1)
