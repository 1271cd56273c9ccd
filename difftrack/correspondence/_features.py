"""Feature matching: the same question asked of hidden states, all heads' channels together."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence._matches import Matches, check_source_frame, given_matches, join_matches
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import query_tokens
from difftrack.correspondence._readout import read_rows
from difftrack.correspondence._softmax import mean_attention_blocked

__all__ = ["match_features"]


def match_features(
    feature: Float[Tensor, "head latent_frame row col channel"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> Matches:
    """Match points of the source frame in every other latent frame by the similarity of features.

        C[i, x] = softmax_x(similarity(f_si, f_jx) / feature_temperature)

    The similarity is the cosine over all heads' channels, or the raw dot product with `feature_similarity: dot`.

    Args:
        feature: Attention output before its projection (or any hidden state with one head).
        points_xy_token: Points of the source frame in token coordinates.
        params: Conventions.
        source_frame: Latent frame that the points belong to.

    Raises:
        ValueError: `source_frame` does not exist or a point is not finite.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eq. 5 with D the intermediate features. The cosine is our departure: the dot
        product favours tokens of large norm (decision 0002).
    """
    _, num_latent_frames, num_rows, cols, _ = feature.shape
    check_source_frame(source_frame, num_latent_frames)
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params)
    source = _frame_features(feature, source_frame, params)[:, :, points.tokens]
    one_head = torch.ones(1, device=feature.device)
    frames = []
    for target_frame in range(num_latent_frames):
        if target_frame == source_frame:
            frames.append(given_matches(points_xy_token))
            continue
        target = _frame_features(feature, target_frame, params)
        rows = mean_attention_blocked(source, target, one_head, scale=1 / params.feature_temperature)
        frames.append(read_rows(rows, points, cols=cols, params=params))
    return join_matches(frames)


def _frame_features(
    feature: Float[Tensor, "head latent_frame row col channel"], latent_frame: int, params: MatchingParams
) -> Float[Tensor, "1 1 token head_channel"]:
    """Join all heads' channels into one vector per token."""
    tokens = feature[:, latent_frame].flatten(1, 2).transpose(0, 1).flatten(1).float()
    if params.feature_similarity == "cosine":
        tokens = torch.nn.functional.normalize(tokens, dim=-1)
    return tokens[None, None]
