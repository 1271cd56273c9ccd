"""Matches single points; a separate module, so that a page with cached drawings loads no torch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from difftrack.correspondence import (
    MatchingParams,
    MatchKind,
    feature_probabilities,
    match_features,
    match_points,
    match_probabilities,
    pair_of_kind,
    points_to_tokens,
    tokens_to_points,
    top_matches,
)
from difftrack.geometry import token_to_px

__all__ = ["match_maps", "matched_positions"]

Read = Callable[[str], Float[np.ndarray, "head latent_frame row col channel"]]
"""Reads descriptors by name, such as query, key or feature."""


def match_maps(
    read: Read,
    points_xy_px: Float[np.ndarray, "point xy"],
    targets: Sequence[int],
    *,
    kind: MatchKind,
    stride_px: float,
    matching: MatchingParams,
) -> tuple[Float[np.ndarray, "target point row col"], Float[np.ndarray, "target point xy"]]:
    """Match points of the first latent frame in some of the later ones.

    Args:
        read: Reads descriptors.
        points_xy_px: Points in pixels of the size that the backbone saw.
        targets: Latent frames.
        kind: Kind of matching.
        stride_px: Pixels per token.
        matching: How descriptors are matched.

    Returns:
        The probability of every token, and the centre of the most probable one in the same pixels.
    """
    points = points_to_tokens(_tensor(points_xy_px), stride_px=stride_px, params=matching)
    if kind == "feature":
        feature = _tensor(read("feature"))
        maps = [feature_probabilities(feature, points, target_frame=target, params=matching) for target in targets]
    else:
        (query, key), own = pair_of_kind(lambda entry: _tensor(read(entry)), kind, params=matching)
        maps = [match_probabilities(query, key, points, target_frame=target, params=own) for target in targets]
    best = torch.stack([top_matches(of_frame, k=1).points_xy_token[:, 0] for of_frame in maps])
    return torch.stack(maps).numpy(), token_to_px(best, stride_px=stride_px).numpy()


def matched_positions(
    read: Read,
    points_xy_px: Float[np.ndarray, "point xy"],
    *,
    kind: MatchKind,
    stride_px: float,
    matching: MatchingParams,
) -> Float[np.ndarray, "latent_frame point xy"]:
    """Match points of the first latent frame in every latent frame, as positions in the same pixels.

    Args:
        read: Reads descriptors.
        points_xy_px: Points in pixels of the size that the backbone saw.
        kind: Kind of matching.
        stride_px: Pixels per token.
        matching: How descriptors are matched.
    """
    points = points_to_tokens(_tensor(points_xy_px), stride_px=stride_px, params=matching)
    if kind == "feature":
        matches = match_features(_tensor(read("feature")), points, params=matching)
    else:
        (query, key), own = pair_of_kind(lambda entry: _tensor(read(entry)), kind, params=matching)
        matches = match_points(query, key, points, params=own)
    return tokens_to_points(matches.points_xy_token, stride_px=stride_px, params=matching).numpy()


def _tensor(values: Float[np.ndarray, "*shape"]) -> Float[torch.Tensor, "*shape"]:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
