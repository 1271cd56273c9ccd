from ._analysis import GroupAccuracy, ScoreMaps
from ._artifacts import maps_from_scores, read_tracked_clip, results_from_metrics
from ._cause_section import CauseStudy, read_cause_study
from ._causes import cause_correlation, cause_figure, cause_table, draw_causes, rank_correlation, removals_of_heads
from ._emergence import draw_emergence
from ._guidance import Samples, read_samples
from ._heatmaps import draw_score_maps
from ._label_overlay import draw_labels, export_labels, save_labels, save_masks
from ._overlay import draw_tracks, drawn_frames
from ._params import OverlayParams, ReportParams
from ._query import PointMatch, draw_query, query_point
from ._report import BackboneResults, example_clips, write_report
from ._report_clips import ReportClips
from ._strips import draw_match_strip, spread_indices
from ._style import figure_pixels
from ._sweeps import draw_sweep, sweep_table, write_sweep_files
from ._track_export import ExportedVideo, Provenance, export_name, export_tracks, export_tracks_table, package_version
from ._tracking import Method, TapVidScores, TrackedClip, TrackingResults
from ._word_overlay import draw_word_strip, draw_words, export_words, word_maps_at

__all__ = [
    "ExportedVideo",
    "BackboneResults",
    "CauseStudy",
    "ReportClips",
    "GroupAccuracy",
    "Method",
    "OverlayParams",
    "PointMatch",
    "rank_correlation",
    "Provenance",
    "ReportParams",
    "Samples",
    "ScoreMaps",
    "TapVidScores",
    "TrackedClip",
    "TrackingResults",
    "cause_correlation",
    "cause_figure",
    "cause_table",
    "draw_causes",
    "draw_emergence",
    "draw_labels",
    "draw_match_strip",
    "save_labels",
    "save_masks",
    "draw_query",
    "draw_score_maps",
    "draw_sweep",
    "draw_tracks",
    "drawn_frames",
    "example_clips",
    "figure_pixels",
    "maps_from_scores",
    "query_point",
    "read_cause_study",
    "read_samples",
    "removals_of_heads",
    "read_tracked_clip",
    "results_from_metrics",
    "spread_indices",
    "draw_word_strip",
    "draw_words",
    "export_labels",
    "export_words",
    "sweep_table",
    "export_name",
    "export_tracks",
    "write_report",
    "word_maps_at",
    "write_sweep_files",
    "export_tracks_table",
    "package_version",
]
