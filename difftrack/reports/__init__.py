"""Artifacts to tables, figures and overlays; the only room that rounds, styles, or says percent."""

from difftrack.reports._analysis import GroupAccuracy, ScoreMaps
from difftrack.reports._artifacts import maps_from_scores, read_tracked_clip, results_from_metrics
from difftrack.reports._footage import Footage
from difftrack.reports._guidance import Samples, read_samples
from difftrack.reports._overlay import draw_tracks
from difftrack.reports._own_tracks import write_own_tracks
from difftrack.reports._params import OverlayParams, ReportParams
from difftrack.reports._query import PointMatch, draw_query, query_point
from difftrack.reports._report import BackboneResults, example_clips, write_report
from difftrack.reports._tracking import Method, TapVidScores, TrackedClip, TrackingResults

__all__ = [
    "BackboneResults",
    "Footage",
    "GroupAccuracy",
    "Method",
    "OverlayParams",
    "PointMatch",
    "ReportParams",
    "Samples",
    "ScoreMaps",
    "TapVidScores",
    "TrackedClip",
    "TrackingResults",
    "draw_query",
    "draw_tracks",
    "example_clips",
    "maps_from_scores",
    "query_point",
    "read_samples",
    "read_tracked_clip",
    "results_from_metrics",
    "write_own_tracks",
    "write_report",
]
