"""Where the match probability of single points goes; a module of its own, so that a page without it loads no torch."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from difftrack.correspondence import MatchingParams, match_probabilities, points_to_tokens, top_matches
from difftrack.geometry import token_to_px

__all__ = ["match_maps"]


def match_maps(
    query: Float[np.ndarray, "head latent_frame row col channel"],
    key: Float[np.ndarray, "head latent_frame row col channel"],
    points_xy_px: Float[np.ndarray, "point xy"],
    targets: Sequence[int],
    *,
    stride_px: float,
    matching: MatchingParams,
) -> tuple[Float[np.ndarray, "target point row col"], Float[np.ndarray, "target point xy"]]:
    """Match points of the first latent frame in some of the later ones.

    Args:
        query: Post-RoPE.
        key: Post-RoPE.
        points_xy_px: In pixels of the size that the backbone saw.
        targets: Latent frames.
        stride_px: Pixels per token.
        matching: How probabilities are made of queries and keys.

    Returns:
        The probability of every token, and the centre of the most probable one in the same pixels.
    """
    points = points_to_tokens(_tensor(points_xy_px), stride_px=stride_px, params=matching)
    queries, keys = _tensor(query), _tensor(key)
    maps = [match_probabilities(queries, keys, points, target_frame=target, params=matching) for target in targets]
    best = torch.stack([top_matches(of_frame, k=1).points_xy_token[:, 0] for of_frame in maps])
    return torch.stack(maps).numpy(), token_to_px(best, stride_px=stride_px).numpy()


def _tensor(values: Float[np.ndarray, "*shape"]) -> Float[torch.Tensor, "*shape"]:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
