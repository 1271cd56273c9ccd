from ._evaluation import EVALUATED_SIZE, ClipScores, FoundTracks, scores_by_truth, track_scores, why_not_scored
from ._grid import ClipMean, harmonic_mean, mean_over_clips, rank_cells
from ._maps import combine_clips, rank_layers, score_clip
from ._params import CORRECTED, RELEASED, ScoreSection, ScoringParams
from ._scores import AttentionScores, attention_score, confidence_score, matching_accuracy, round_accuracy
from ._tapvid import THRESHOLDS_PX, TapvidMetrics, survival_rate, tapvid_metrics

__all__ = [
    "CORRECTED",
    "EVALUATED_SIZE",
    "RELEASED",
    "THRESHOLDS_PX",
    "AttentionScores",
    "ClipMean",
    "ClipScores",
    "FoundTracks",
    "ScoreSection",
    "ScoringParams",
    "TapvidMetrics",
    "attention_score",
    "combine_clips",
    "confidence_score",
    "harmonic_mean",
    "matching_accuracy",
    "mean_over_clips",
    "rank_cells",
    "rank_layers",
    "round_accuracy",
    "score_clip",
    "scores_by_truth",
    "survival_rate",
    "tapvid_metrics",
    "track_scores",
    "why_not_scored",
]
