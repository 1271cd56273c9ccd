"""Match probabilities between latent frames: the averages over heads, directions, layers and steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftrack.correspondence import _backends
from difftrack.correspondence._backends import pair_rows
from difftrack.correspondence._matches import Matches, given_readings, unpack, without_uniform
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import QueryTokens, check_points, query_tokens
from difftrack.correspondence._readout import read_packed

__all__ = ["Descriptors", "RowsBetween", "back_sums", "frame_batches", "match_rows"]

_CACHED_BYTES = 8_000_000

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
    known_back_sums: Sequence[Float[Tensor, "_ latent_frame token"]] | None = None,
) -> Float[Tensor, "target_frame query_token token"]:
    """Give the match probabilities C of some tokens of one latent frame over all tokens of others.

    Args:
        pairs: Query and key of each (layer, step); their probabilities are averaged.
        tokens: Flat indices of the source frame's tokens.
        source_frame: Latent frame of `tokens`.
        target_frames: Consecutive latent frames to match in; the result holds all of them at once.
        params: `directions` and `temperature` matter here.
        head_weights: One vector per pair; uniform when None.
        known_back_sums: `back_sums` of each pair with this source frame, if known: with them, few tokens in both
            directions cost only twice as much as in one.

    Returns:
        C as defined in `match_points`.

    Raises:
        ValueError: `pairs` is empty; or head weights do not fit, are negative, or are all zero.
    """
    if not pairs:
        raise ValueError("pairs is empty; at least one (query, key) is needed to match")
    weights = [None] * len(pairs) if head_weights is None else head_weights
    sums = [None] * len(pairs) if known_back_sums is None else known_back_sums
    total = _pair_rows(pairs[0], tokens, source_frame, target_frames, params, weights[0], sums[0])
    for pair, pair_weights, pair_sums in zip(pairs[1:], weights[1:], sums[1:], strict=True):
        total.add_(_pair_rows(pair, tokens, source_frame, target_frames, params, pair_weights, pair_sums))
    return total.div_(len(pairs)) if len(pairs) > 1 else total


def _pair_rows(
    pair: Descriptors,
    tokens: Int[Tensor, " query_token"],
    source_frame: int,
    target_frames: range,
    params: MatchingParams,
    head_weights: Float[Tensor, " head"] | None,
    known_back_sums: Float[Tensor, "head latent_frame token"] | None,
) -> Float[Tensor, "target_frame query_token token"]:
    """Compute C of one (layer, step)."""
    query, key = (tensor.flatten(2, 3) for tensor in pair)
    weights = None if head_weights is None else _unit_weights(head_weights, query.shape[0])
    rows = pair_rows(
        query,
        key,
        tokens,
        source_frame=source_frame,
        targets=target_frames,
        params=params,
        head_weights=weights,
        known_back_sums=known_back_sums,
    )
    return rows[0]


def back_sums(
    pair: Descriptors, *, source_frame: int, params: MatchingParams = CORRECTED
) -> Float[Tensor, "head latent_frame token"]:
    """Compute the normalisers, as log2, of the softmaxes from all tokens back over one latent frame.

    They do not depend on the points, and are nearly all the work of matching few points in both directions: see
    `match_rows`.

    Args:
        pair: Query and key of one (layer, step).
        source_frame: Latent frame that is matched back to.
        params: `temperature` matters here.
    """
    query, key = (tensor.flatten(2, 3) for tensor in pair)
    return _backends.back_sums(query, key, source_frame=source_frame, params=params)


def _unit_weights(weights: Tensor, num_heads: int) -> Float[Tensor, " head"]:
    """Scale head weights to sum 1, on the CPU to avoid a wait for the GPU."""
    weights = weights.cpu()
    if weights.shape != (num_heads,) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"head_weights is {weights.tolist()}; expected {num_heads} numbers, none negative, not all zero"
        )
    return (weights / weights.sum()).float()


@dataclass(frozen=True, slots=True)
class RowsBetween:
    """Matching between latent frames of the same descriptors, frame batch by frame batch."""

    pairs: Sequence[Descriptors]
    params: MatchingParams
    head_weights: Sequence[Tensor] | None

    def match(self, points_xy_token: Float[Tensor, "point xy"], source_frame: int, *, cycle: bool) -> Matches:
        """Match points of one latent frame in all others; with `cycle` also back again."""
        query, _ = self.pairs[0]
        _, num_latent_frames, num_rows, cols, _ = query.shape
        check_points(points_xy_token, rows=num_rows, cols=cols, params=self.params)
        points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=self.params, device=query.device)
        readings = given_readings(points.points_xy_token, num_latent_frames)
        errors = readings.new_zeros(readings.shape[:-1]) if cycle else None
        for frames in frame_batches(query, points, self.params, source_frame, single=cycle):
            at = slice(frames.start, frames.stop)
            if errors is None:
                rows = self._rows(points.tokens, source_frame, frames)
                readings[at] = read_packed(rows, points, cols=cols, params=self.params)
            else:
                readings[at], errors[at] = self._match_cycle(readings[source_frame], points, source_frame, frames.start)
        without_uniform(readings, num_rows * cols, self.params)
        if errors is not None:
            errors.masked_fill_(readings[..., 0].isnan(), float("nan"))  # no position, so no way back
        return unpack(readings, errors)

    def _match_cycle(
        self, asked: Float[Tensor, "point 4"], points: QueryTokens, source_frame: int, target_frame: int
    ) -> tuple[Float[Tensor, "1 point 4"], Float[Tensor, "1 point"]]:
        query, _ = self.pairs[0]
        _, _, num_rows, cols, _ = query.shape
        forth, back = self._both_ways(source_frame, target_frame)
        there = read_packed(forth(points.tokens), points, cols=cols, params=self.params)
        found = query_tokens(there[0, :, :2], rows=num_rows, cols=cols, params=self.params, device=query.device)
        again = read_packed(back(found.tokens), found, cols=cols, params=self.params)
        return there, torch.linalg.vector_norm(again[..., :2] - asked[..., :2], dim=-1)

    def _both_ways(self, source_frame: int, target_frame: int) -> tuple["RowsOfTokens", "RowsOfTokens"]:
        """Return functions for the rows of source tokens in the target frame, and of target tokens in the source frame.

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


def frame_batches(
    query: Float[Tensor, "head latent_frame row col channel"],
    points: QueryTokens,
    params: MatchingParams,
    source_frame: int,
    *,
    groups: int = 1,
    single: bool = False,
) -> Iterator[range]:
    """Split the latent frames other than the source into runs whose rows stay within the memory limit.

    A CPU takes fewer frames at a time than the limit allows, so that rows are read while they are in its cache.
    """
    _, num_latent_frames, num_rows, cols, _ = query.shape
    limit = params.memory_limit_mb * 2**20
    if query.device.type == "cpu":
        limit = min(limit, _CACHED_BYTES)
    frame_bytes = 4 * groups * len(points.tokens) * num_rows * cols
    most = 1 if single else max(1, limit // max(1, frame_bytes))
    for around in (range(source_frame), range(source_frame + 1, num_latent_frames)):
        for start in around[::most]:
            yield range(start, min(start + most, around.stop))
