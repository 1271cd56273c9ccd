"""Query points: from pixels to token coordinates and to the tokens whose probability rows they need."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack import geometry
from difftrack.correspondence._params import CORRECTED, MatchingParams

__all__ = ["QueryTokens", "nearest_tokens", "points_to_tokens", "query_tokens", "tokens_to_points"]


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


@dataclass(frozen=True, slots=True)
class QueryTokens:
    """The tokens around a set of points, each once, and how the points mix them bilinearly."""

    tokens: Int[Tensor, " query_token"]
    """Flat indices (row-major) of the tokens needed, ascending."""
    slots: Int[Tensor, "point corner"]
    """Positions in `tokens` of the four corners around each point."""
    weights: Float[Tensor, "point corner"]
    """Bilinear weights of the corners; they sum to 1, or to less beyond the border with `padding: zeros`."""

    def mix(self, values: Float[Tensor, "*shape query_token channel"]) -> Float[Tensor, "*shape point channel"]:
        """Interpolate values given at `tokens` to the points."""
        mixed = values.index_select(-2, self.slots[:, 0]) * self.weights[:, 0, None]
        for corner in range(1, self.slots.shape[1]):
            weights = self.weights[:, corner, None]
            mixed = mixed.addcmul_(values.index_select(-2, self.slots[:, corner]), weights)
        return mixed


def query_tokens(
    points_xy_token: Float[Tensor, "point xy"], *, rows: int, cols: int, params: MatchingParams = CORRECTED
) -> QueryTokens:
    """Find the four tokens around every point and their bilinear weights.

    Raises:
        ValueError: a coordinate is not finite.
    """
    if not torch.isfinite(points_xy_token).all():
        bad = int((~torch.isfinite(points_xy_token)).any(dim=-1).nonzero()[0])
        raise ValueError(f"query point {bad} is {points_xy_token[bad].tolist()}; coordinates must be finite")
    size = torch.tensor([cols, rows], device=points_xy_token.device)
    xy = points_xy_token.float()
    if params.query_margin == "grid":
        xy = xy * (size - 1) / (size - cols / 64)
    if params.padding == "border":
        xy = xy.clamp(min=torch.zeros_like(size), max=size - 1)
    base = xy.floor()
    offsets = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=xy.device)
    corners = base.long()[:, None] + offsets
    weights = (1 - (xy[:, None] - corners).abs()).prod(dim=-1)
    inside = ((corners >= 0) & (corners < size)).all(dim=-1)
    weights = torch.where(inside, weights, 0.0)
    used = torch.where((weights > 0)[..., None], corners, corners[:, :1]).clamp(
        min=torch.zeros_like(size), max=size - 1
    )
    tokens, slots = torch.unique(used[..., 1] * cols + used[..., 0], return_inverse=True)
    return QueryTokens(tokens=tokens, slots=slots, weights=weights)


def nearest_tokens(
    points_xy_token: Float[Tensor, "point xy"], *, rows: int, cols: int, params: MatchingParams = CORRECTED
) -> Int[Tensor, " point"]:
    """Pick the token nearest to every point (flat, row-major), halves to even; points outside take the border's.

    With `attention_axes: swapped` x chooses the row and y the column, as in the released code.
    """
    nearest = points_xy_token.round().long()
    row, col = nearest[:, 1], nearest[:, 0]
    if params.attention_axes == "swapped":
        row, col = col, row
    return row.clamp(0, rows - 1) * cols + col.clamp(0, cols - 1)
