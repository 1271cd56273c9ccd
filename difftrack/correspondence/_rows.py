"""Match probabilities between latent frames: the averages over heads, directions, layers and steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence._matches import Matches
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import query_tokens
from difftrack.correspondence._readout import read_rows
from difftrack.correspondence._softmax import mean_attention

__all__ = ["Descriptors", "RowsBetween", "match_rows"]

Descriptors = tuple[Float[Tensor, "_ latent_frame row col _"], Float[Tensor, "_ latent_frame row col _"]]
"""The query and the key of one (layer, step), [head, latent_frame, row, col, channel]."""


def match_rows(
    pairs: Sequence[Descriptors],
    tokens: Int[Tensor, " query_token"],
    *,
    source_frame: int,
    target_frames: range,
    params: MatchingParams = CORRECTED,
    head_weights: Sequence[Float[Tensor, " _"]] | None = None,
) -> Float[Tensor, "target_frame query_token token"]:
    """Give the match probabilities C of some tokens of one latent frame over all tokens of others.

    Args:
        pairs: Query and key of each (layer, step); their probabilities are averaged.
        tokens: Flat indices of the source frame's tokens.
        source_frame: Latent frame of `tokens`.
        target_frames: Consecutive latent frames to match in; the result holds all of them at once.
        params: `directions` and `temperature` matter here.
        head_weights: One vector per pair; uniform when None.

    Returns:
        C as defined in `match_points`.

    Raises:
        ValueError: there is no pair; or head weights do not fit, are negative, or are all zero.
    """
    if not pairs:
        raise ValueError("pairs is empty; at least one (query, key) is needed to match")
    weights = [None] * len(pairs) if head_weights is None else head_weights
    total = _pair_rows(pairs[0], tokens, source_frame, target_frames, params, weights[0])
    for pair, pair_weights in zip(pairs[1:], weights[1:], strict=True):
        total.add_(_pair_rows(pair, tokens, source_frame, target_frames, params, pair_weights))
    return total.div_(len(pairs))


def _pair_rows(
    pair: Descriptors,
    tokens: Int[Tensor, " query_token"],
    source_frame: int,
    target_frames: range,
    params: MatchingParams,
    head_weights: Float[Tensor, " head"] | None,
) -> Float[Tensor, "target_frame query_token token"]:
    """C of one (layer, step)."""
    query, key = (tensor.flatten(2, 3) for tensor in pair)
    num_heads, _, tokens_per_frame, num_channels = query.shape
    weights = _unit_weights(head_weights, num_heads, query.device)
    scale = params.score_scale(num_heads=num_heads, num_channels=num_channels)
    targets = slice(target_frames.start, target_frames.stop)
    source_query = query[:, source_frame, tokens][:, None].expand(-1, len(target_frames), -1, -1)
    rows = mean_attention(source_query, key[:, targets], weights, scale=scale, params=params)
    if params.directions == "forward":
        return rows
    source_key = key[:, source_frame][:, None].expand(-1, len(target_frames), -1, -1)
    every = len(tokens) == tokens_per_frame and bool((tokens.diff() == 1).all())
    columns = None if every else tokens
    back = mean_attention(query[:, targets], source_key, weights, scale=scale, params=params, columns=columns)
    return rows.add_(back.transpose(1, 2)).mul_(0.5)


def _unit_weights(weights: Tensor | None, num_heads: int, device: torch.device) -> Float[Tensor, " head"]:
    if weights is None:
        return torch.full((num_heads,), 1 / num_heads, device=device)
    if weights.shape != (num_heads,) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"head_weights is {weights.tolist()}; wanted: {num_heads} numbers, none negative, not all zero"
        )
    return (weights / weights.sum()).to(device, torch.float32)


@dataclass(frozen=True, slots=True)
class RowsBetween:
    """Matching between latent frames of the same descriptors, frame batch by frame batch."""

    pairs: Sequence[Descriptors]
    params: MatchingParams
    head_weights: Sequence[Tensor] | None

    def match(
        self, points_xy_token: Float[Tensor, "point xy"], source_frame: int, target_frames: range, *, cycle: bool
    ) -> Iterator[Matches]:
        """Match points of one latent frame in consecutive others; with `cycle` also back again."""
        _, _, num_rows, cols, _ = self.pairs[0][0].shape
        points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=self.params)
        if cycle:
            for target_frame in target_frames:
                yield self._match_cycle(points_xy_token, source_frame, target_frame)
            return
        frame_bytes = 4 * len(points.tokens) * num_rows * cols * (2 if self.params.directions == "both" else 1)
        batch = max(1, self.params.memory_limit_mb * 2**20 // frame_bytes)
        for start in range(target_frames.start, target_frames.stop, batch):
            frames = range(start, min(start + batch, target_frames.stop))
            yield read_rows(self._rows(points.tokens, source_frame, frames), points, cols=cols, params=self.params)

    def _match_cycle(self, points_xy_token: Float[Tensor, "point xy"], source_frame: int, target_frame: int) -> Matches:
        _, _, num_rows, cols, _ = self.pairs[0][0].shape
        points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=self.params)
        forth, back = self._both_ways(source_frame, target_frame)
        there = read_rows(forth(points.tokens), points, cols=cols, params=self.params)
        found = query_tokens(there.points_xy_token[0], rows=num_rows, cols=cols, params=self.params)
        again = read_rows(back(found.tokens), found, cols=cols, params=self.params)
        error = torch.linalg.vector_norm(again.points_xy_token - points_xy_token, dim=-1)
        return replace(there, cycle_error_token=error)

    def _both_ways(self, source_frame: int, target_frame: int) -> tuple["RowsOfTokens", "RowsOfTokens"]:
        """Functions giving the rows of source tokens in the target frame, and of target tokens in the source frame.

        With both directions averaged C is symmetric, so one full matrix, transposed, also serves the way back.
        """
        if self.params.directions == "forward":
            return (
                lambda tokens: self._rows(tokens, source_frame, range(target_frame, target_frame + 1)),
                lambda tokens: self._rows(tokens, target_frame, range(source_frame, source_frame + 1)),
            )
        query, _ = self.pairs[0]
        every = torch.arange(query.shape[2] * query.shape[3], device=query.device)
        full = self._rows(every, source_frame, range(target_frame, target_frame + 1))
        return (lambda tokens: full[:, tokens], lambda tokens: full.transpose(1, 2)[:, tokens])

    def _rows(
        self, tokens: Int[Tensor, " query_token"], source_frame: int, target_frames: range
    ) -> Float[Tensor, "target_frame query_token token"]:
        return match_rows(
            self.pairs,
            tokens,
            source_frame=source_frame,
            target_frames=target_frames,
            params=self.params,
            head_weights=self.head_weights,
        )


RowsOfTokens = Callable[[Int[Tensor, " query_token"]], Float[Tensor, "target_frame query_token token"]]
