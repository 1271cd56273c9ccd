"""Query points: from pixels to token coordinates and to the tokens whose probability rows they need."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack import geometry
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._tensor_cache import kept

__all__ = ["QueryTokens", "check_points", "nearest_tokens", "points_to_tokens", "query_tokens", "tokens_to_points"]

FoundT = TypeVar("FoundT")

MARGIN_TOKEN = 0.5
"""Tokens by which a query point may lie outside the picture, for clicks beside the border and rounded files."""


def points_to_tokens(
    points_xy_px: Float[Tensor, "*shape xy"], *, stride_px: int | float, params: MatchingParams = CORRECTED
) -> Float[Tensor, "*shape xy"]:
    """Convert pixels of the image that the backbone saw to token coordinates of `params.token_origin`."""
    if params.token_origin == "corner":
        return points_xy_px / stride_px
    return geometry.px_to_token(points_xy_px, stride_px=float(stride_px))


def tokens_to_points(
    points_xy_token: Float[Tensor, "*shape xy"], *, stride_px: int | float, params: MatchingParams = CORRECTED
) -> Float[Tensor, "*shape xy"]:
    """Convert token coordinates of `params.token_origin` to pixels; inverse of `points_to_tokens`."""
    if params.token_origin == "corner":
        return points_xy_token * stride_px
    return geometry.token_to_px(points_xy_token, stride_px=float(stride_px))


def check_points(points_xy_token: Float[Tensor, "point xy"], *, rows: int, cols: int, params: MatchingParams) -> None:
    """Refuse points outside the picture; up to `MARGIN_TOKEN` beyond the border is allowed.

    Raises:
        ValueError: a point is outside or not finite; the message names the first one and the grid.
    """
    _check_points(_bytes_of(points_xy_token), rows, cols, params.token_origin)


@kept
def _check_points(points: bytes, rows: int, cols: int, token_origin: str) -> None:
    xy = np.frombuffer(points, np.float32).reshape(-1, 2)
    first = 0.0 if token_origin == "corner" else -0.5
    low, high = first - MARGIN_TOKEN, np.asarray([cols, rows]) + first + MARGIN_TOKEN
    for index in np.flatnonzero(~((xy >= low) & (xy <= high)).all(axis=-1))[:1]:
        if not np.isfinite(xy[index]).all():
            raise ValueError(f"query point {index} is {xy[index].tolist()}; coordinates must be finite")
        raise ValueError(
            f"query point {index} is {xy[index].tolist()} in tokens, outside the picture of {cols}x{rows} tokens; "
            "leave it out, or check which image size its pixels belong to"
        )


@dataclass(frozen=True, slots=True)
class QueryTokens:
    """The tokens around a set of points, each once, and how the points mix them."""

    points_xy_token: Float[Tensor, "point xy"]
    """The given points."""
    tokens: Int[Tensor, " query_token"]
    """Flat indices (row-major) of the tokens needed, ascending."""
    slots: Int[Tensor, "point corner"]
    """Positions in `tokens` of the four corners around each point, or of a wider neighbourhood."""
    weights: Float[Tensor, "point corner"]
    """Bilinear weights of the corners; they sum to 1, or to less beyond the border with `padding: zeros`."""

    def mix(self, values: Float[Tensor, "*shape query_token channel"]) -> Float[Tensor, "*shape point channel"]:
        """Interpolate values at `tokens` to the points."""
        if not len(self.tokens) or values.device.type != "cpu" or values.dtype != torch.float32 or values.requires_grad:
            return (values[..., self.slots, :] * self.weights[..., None]).sum(dim=-2)
        *shape, num_tokens, num_channels = values.shape
        stacked = values.reshape(-1, num_channels)
        copies = len(stacked) // num_tokens
        starts = torch.arange(0, len(stacked), num_tokens)[:, None, None]
        mixed: Tensor = torch.nn.functional.embedding_bag(
            (self.slots + starts).flatten(0, 1),
            stacked,
            per_sample_weights=self.weights.repeat(copies, 1),
            mode="sum",
        )
        return mixed.reshape(*shape, len(self.slots), num_channels)


def query_tokens(
    points_xy_token: Float[Tensor, "point xy"],
    *,
    rows: int,
    cols: int,
    params: MatchingParams = CORRECTED,
    device: torch.device | None = None,
) -> QueryTokens:
    """Find the four tokens around every point and their bilinear weights, or a wider neighbourhood with tent weights.

    Runs on the CPU and caches the last sets of points: every layer and step asks for the same points, and this avoids
    waits for the GPU. Keep points on the CPU.

    Args:
        points_xy_token: Points in token coordinates.
        rows: Rows of the token grid.
        cols: Columns of the token grid.
        params: `query_margin` and `padding` matter here; `support_radius` with `read_out: displacements`.
        device: Device of the result; None is that of the points.

    Raises:
        ValueError: a coordinate is not finite.
    """
    found = _query_tokens(
        _bytes_of(points_xy_token),
        rows,
        cols,
        params.query_margin,
        params.padding,
        params.support_radius if params.read_out == "displacements" else 1,
        str(device or points_xy_token.device),
    )
    return _unless_infinite(found, points_xy_token)


def _unless_infinite(found: FoundT | int, points_xy_token: Float[Tensor, "point xy"]) -> FoundT:
    """Return the result, or raise if it is the number of a point that is not finite."""
    if isinstance(found, int):
        raise ValueError(f"query point {found} is {points_xy_token[found].tolist()}; coordinates must be finite")
    return found


def _first_infinite(xy: Float[Tensor, "point xy"]) -> int | None:
    bad = (~torch.isfinite(xy)).any(dim=-1).nonzero()
    return int(bad[0]) if len(bad) else None


def _bytes_of(points: Float[Tensor, "point xy"]) -> bytes:
    return points.detach().float().cpu().numpy().tobytes()


@kept
def _query_tokens(
    points: bytes, rows: int, cols: int, query_margin: str, padding: str, radius: int, device: str
) -> QueryTokens | int:
    """Give the tokens, or the index of the first point that is not finite."""
    with torch.inference_mode(False):
        xy = torch.from_numpy(np.frombuffer(points, np.float32).reshape(-1, 2).copy())
        if (infinite := _first_infinite(xy)) is not None:
            return infinite
        given, size = xy, torch.tensor([cols, rows])
        if query_margin == "grid":
            xy = xy * (size - 1) / (size - cols / 64)
        if padding == "border":
            xy = xy.clamp(min=torch.zeros_like(size), max=size - 1)
        base = xy.floor()
        steps = torch.arange(1 - radius, radius + 1)
        around = torch.stack([steps.repeat(2 * radius), steps.repeat_interleave(2 * radius)], dim=-1)
        corners = base.long()[:, None] + around
        weights = (1 - (xy[:, None] - corners).abs() / radius).clamp(min=0).prod(dim=-1) / radius**2
        inside = ((corners >= 0) & (corners < size)).all(dim=-1)
        weights = torch.where(inside, weights, 0.0)
        if radius > 1 and padding == "border":
            weights /= weights.sum(dim=-1, keepdim=True)
        used = torch.where((weights > 0)[..., None], corners, base.long()[:, None])
        used = used.clamp(min=torch.zeros_like(size), max=size - 1)
        tokens, slots = torch.unique(used[..., 1] * cols + used[..., 0], return_inverse=True)
        return QueryTokens(*(part.to(device) for part in (given, tokens, slots, weights)))


def nearest_tokens(
    points_xy_token: Float[Tensor, "point xy"],
    *,
    rows: int,
    cols: int,
    params: MatchingParams = CORRECTED,
    device: torch.device | None = None,
) -> tuple[Int[Tensor, " query_token"], Int[Tensor, " point"]]:
    """Pick the token nearest to every point (flat, row-major), halves to even; points outside take the border's.

    With `attention_axes: swapped` x chooses the row and y the column, as in the released code.

    Returns:
        The tokens, each once, and the position of every point's token among them; cached as in `query_tokens`.

    Raises:
        ValueError: a point is not finite.
    """
    swapped = params.attention_axes == "swapped"
    found = _nearest_tokens(_bytes_of(points_xy_token), rows, cols, swapped, str(device or points_xy_token.device))
    return _unless_infinite(found, points_xy_token)


@kept
def _nearest_tokens(points: bytes, rows: int, cols: int, swapped: bool, device: str) -> tuple[Tensor, Tensor] | int:
    """Give the tokens, or the index of the first point that is not finite."""
    with torch.inference_mode(False):
        xy = torch.from_numpy(np.frombuffer(points, np.float32).reshape(-1, 2).copy())
        if (infinite := _first_infinite(xy)) is not None:
            return infinite
        nearest = xy.round().long()
        col, row = nearest.flip(-1).unbind(dim=-1) if swapped else nearest.unbind(dim=-1)
        flat = row.clamp(0, rows - 1) * cols + col.clamp(0, cols - 1)
        tokens, slots = torch.unique(flat, return_inverse=True)
        return tokens.to(device), slots.to(device)
