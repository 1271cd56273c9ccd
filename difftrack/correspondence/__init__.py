"""Pure tensor maths: descriptors -> match probabilities -> matches and attention scores.

No number out of nothing, one rule for every backend and kind:

* A query point that is not finite, or lies more than half a token outside the picture, is a ValueError that names it
  and the grid; annotators click beside the border, and half a token covers that.
* A match whose probabilities are uniform, since its descriptor is zero or all that it is compared with is the same, has
  position NaN, probability 1 / num_tokens and margin 0. NaN is never within a threshold, so that such a match counts as
  wrong in scores. With `second_softmax`, which the released code takes, the first token stands as it does there.
* `read_rows` and `read_moves`, on which the tracker builds, give the first token with that probability and margin; the
  tracker goes by the margin.
* Descriptors that are not finite are refused where they are read, by their clip, step and layer (`Store.sel`).
"""

from difftrack.correspondence._attention import (
    AttentionRows,
    attention_of_points,
    attention_of_points_per_head,
    attention_of_points_with_heads,
    attention_rows,
)
from difftrack.correspondence._clip import Cell, ClipMatcher, label_matches
from difftrack.correspondence._device import matching_device
from difftrack.correspondence._features import match_features
from difftrack.correspondence._matches import Matches
from difftrack.correspondence._matching import (
    TopMatches,
    match_points,
    match_points_fused,
    match_points_per_head,
    match_points_with_heads,
    match_probabilities,
    top_matches,
)
from difftrack.correspondence._params import CORRECTED, RELEASED, Convention, MatchingParams, MatchSection
from difftrack.correspondence._points import QueryTokens, points_to_tokens, query_tokens, tokens_to_points
from difftrack.correspondence._readout import Moves, point_probabilities, read_moves, read_rows, without_best
from difftrack.correspondence._rows import Descriptors, match_rows
from difftrack.correspondence._time import latent_to_frames

__all__ = [
    "CORRECTED",
    "RELEASED",
    "AttentionRows",
    "Cell",
    "ClipMatcher",
    "Convention",
    "Descriptors",
    "MatchSection",
    "Matches",
    "MatchingParams",
    "Moves",
    "QueryTokens",
    "TopMatches",
    "attention_of_points",
    "attention_of_points_per_head",
    "attention_of_points_with_heads",
    "attention_rows",
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
    "tokens_to_points",
    "top_matches",
    "without_best",
]
