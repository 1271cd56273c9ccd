from ._attention import (
    AttentionRows,
    attention_of_points,
    attention_of_points_per_head,
    attention_of_points_with_heads,
    attention_rows,
)
from ._clip_matcher import ClipMatcher, UnitMatches, label_matches
from ._device import matching_device
from ._features import feature_probabilities, match_features
from ._frame_places import stored_to_frames
from ._kinds import comparable, pair_of_kind
from ._match_probabilities import Descriptors, back_sums, match_rows
from ._matches import Matches, without_uniform
from ._matching import (
    TopMatches,
    match_points,
    match_points_fused,
    match_points_per_head,
    match_points_with_heads,
    match_probabilities,
    top_matches,
)
from ._params import CORRECTED, MATCH_KINDS, RELEASED, MatchingParams, MatchKind, MatchSection, descriptors_of
from ._points import QueryTokens, points_to_tokens, query_tokens, tokens_to_points
from ._readout import DisplacementCandidates, point_probabilities, read_moves, read_rows, without_best
from ._temporal_upsampling import latent_to_frames

__all__ = [
    "CORRECTED",
    "MATCH_KINDS",
    "RELEASED",
    "AttentionRows",
    "UnitMatches",
    "ClipMatcher",
    "Descriptors",
    "MatchKind",
    "MatchSection",
    "Matches",
    "MatchingParams",
    "DisplacementCandidates",
    "QueryTokens",
    "TopMatches",
    "comparable",
    "descriptors_of",
    "pair_of_kind",
    "attention_of_points",
    "attention_of_points_per_head",
    "attention_of_points_with_heads",
    "attention_rows",
    "back_sums",
    "feature_probabilities",
    "label_matches",
    "latent_to_frames",
    "match_features",
    "matching_device",
    "match_points",
    "match_points_fused",
    "match_points_per_head",
    "match_points_with_heads",
    "match_probabilities",
    "match_rows",
    "point_probabilities",
    "points_to_tokens",
    "query_tokens",
    "read_moves",
    "read_rows",
    "stored_to_frames",
    "tokens_to_points",
    "top_matches",
    "without_best",
    "without_uniform",
]
