from ._analysis import GroupAccuracy, ScoreMaps
from ._artifacts import maps_from_scores, read_tracked_clip, results_from_metrics
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

__all__ = [
    "ExportedVideo",
    "BackboneResults",
    "ReportClips",
    "GroupAccuracy",
    "Method",
    "OverlayParams",
    "PointMatch",
    "Provenance",
    "ReportParams",
    "Samples",
    "ScoreMaps",
    "TapVidScores",
    "TrackedClip",
    "TrackingResults",
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
    "read_samples",
    "read_tracked_clip",
    "results_from_metrics",
    "spread_indices",
    "export_labels",
    "sweep_table",
    "export_name",
    "export_tracks",
    "write_report",
    "write_sweep_files",
    "export_tracks_table",
    "package_version",
]
