"""Tracks or attention + truth -> numbers; knows nothing of models or files."""

from difftrack.metrics._grid import ClipMean, harmonic_mean, mean_over_clips, rank_cells
from difftrack.metrics._params import CORRECTED, RELEASED, Convention, ScoringParams
from difftrack.metrics._scores import (
    AttentionScores,
    attention_score,
    confidence_score,
    matching_accuracy,
    round_accuracy,
)
from difftrack.metrics._tapvid import THRESHOLDS_PX, TapvidMetrics, survival_rate, tapvid_metrics

__all__ = [
    "CORRECTED",
    "RELEASED",
    "THRESHOLDS_PX",
    "AttentionScores",
    "ClipMean",
    "Convention",
    "ScoringParams",
    "TapvidMetrics",
    "attention_score",
    "confidence_score",
    "harmonic_mean",
    "matching_accuracy",
    "mean_over_clips",
    "rank_cells",
    "round_accuracy",
    "survival_rate",
    "tapvid_metrics",
]
