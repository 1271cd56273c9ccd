from ._analysis import GroupAccuracy, ScoreMaps
from ._artifacts import maps_from_scores, read_tracked_clip, results_from_metrics
from ._footage import Footage
from ._guidance import Samples, read_samples
from ._overlay import draw_tracks
from ._own_tracks import write_own_tracks
from ._params import OverlayParams, ReportParams
from ._query import PointMatch, draw_query, query_point
from ._report import BackboneResults, example_clips, write_report
from ._tracking import Method, TapVidScores, TrackedClip, TrackingResults

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
