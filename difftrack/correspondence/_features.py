"""Feature matching: matches hidden states, with the channels of all heads joined."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence._match_probabilities import frame_batches
from difftrack.correspondence._matches import Matches, check_latent_frame, given_readings, unpack, without_uniform
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._points import check_points, query_tokens
from difftrack.correspondence._readout import Logits, point_probabilities, read_packed
from difftrack.correspondence._scores import as_float, product

__all__ = ["feature_probabilities", "match_features"]


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
        ValueError: `source_frame` does not exist, or a point is not finite or outside the picture.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eq. 5 with D the intermediate features. The cosine is our departure: the dot
        product favours tokens of large norm (decision 0002).
    """
    _, num_latent_frames, num_rows, cols, _ = feature.shape
    check_latent_frame(source_frame, num_latent_frames)
    check_points(points_xy_token, rows=num_rows, cols=cols, params=params)
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params, device=feature.device)
    tokens = feature.permute(1, 2, 3, 0, 4).flatten(3).flatten(1, 2)
    source = tokens[source_frame].index_select(0, points.tokens)
    source_scale = _inverse_norms(source) if params.feature_similarity == "cosine" else None
    readings = given_readings(points.points_xy_token, num_latent_frames)
    for frames in frame_batches(feature, points, params, source_frame):
        at = slice(frames.start, frames.stop)
        scores = _products(source, tokens[at])
        logits = Logits(
            scale=1 / params.feature_temperature,
            row_scale=source_scale,
            column_scale=None if source_scale is None else _inverse_norms(tokens[at]),
        )
        readings[at] = read_packed(scores, points, cols=cols, params=params, logits=logits)
    return unpack(without_uniform(readings, num_rows * cols, params))


def feature_probabilities(
    feature: Float[Tensor, "head latent_frame row col channel"],
    points_xy_token: Float[Tensor, "point xy"],
    *,
    target_frame: int,
    params: MatchingParams = CORRECTED,
    source_frame: int = 0,
) -> Float[Tensor, "point row col"]:
    """Give the probability map of every point over one latent frame, as `match_features` computes it; each sums to 1.

    Raises:
        ValueError: one of the two latent frames does not exist, or a point is not finite or outside the picture.
    """
    _, num_latent_frames, num_rows, cols, _ = feature.shape
    check_latent_frame(source_frame, num_latent_frames)
    check_latent_frame(target_frame, num_latent_frames, name="target_frame")
    check_points(points_xy_token, rows=num_rows, cols=cols, params=params)
    points = query_tokens(points_xy_token, rows=num_rows, cols=cols, params=params, device=feature.device)
    tokens = feature.permute(1, 2, 3, 0, 4).flatten(3).flatten(1, 2)
    source, target = tokens[source_frame].index_select(0, points.tokens), tokens[target_frame : target_frame + 1]
    cosine = params.feature_similarity == "cosine"
    logits = Logits(
        scale=1 / params.feature_temperature,
        row_scale=_inverse_norms(source) if cosine else None,
        column_scale=_inverse_norms(target) if cosine else None,
    )
    rows = logits.softmax(_products(source, target))
    return point_probabilities(rows[0], points, params).reshape(-1, num_rows, cols)


def _products(
    source: Float[Tensor, "query_token channel"], target: Float[Tensor, "frame token channel"]
) -> Float[Tensor, "frame query_token token"]:
    """Multiply in the features' own type with float32 sums where such a product exists, else in float32."""
    num_frames, num_tokens, _ = target.shape
    stacked = target.flatten(0, 1)
    if source.is_cuda and source.dtype in (torch.float16, torch.bfloat16):
        scores = torch.mm(source, stacked.T, out_dtype=torch.float32)
    else:
        scores = product(as_float(source), as_float(stacked))
    return scores.reshape(len(source), num_frames, num_tokens).transpose(0, 1)


def _inverse_norms(tokens: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes"]:
    norms: Tensor = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32)
    return norms.clamp_(min=1e-12).reciprocal_()
