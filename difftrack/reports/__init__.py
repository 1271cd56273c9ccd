"""Artifacts to tables, figures and overlays; the only room that rounds, styles, or says percent."""

from difftrack.reports._analysis import ScoreMaps
from difftrack.reports._footage import Footage
from difftrack.reports._overlay import OverlayParams, draw_tracks
from difftrack.reports._params import ReportParams
from difftrack.reports._report import BackboneResults, example_clips, write_report
from difftrack.reports._tracking import Method, TapVidScores, TrackedClip

__all__ = [
    "BackboneResults",
    "Footage",
    "Method",
    "OverlayParams",
    "ReportParams",
    "ScoreMaps",
    "TapVidScores",
    "TrackedClip",
    "draw_tracks",
    "example_clips",
    "write_report",
]
