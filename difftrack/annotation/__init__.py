"""Trackers that give (pseudo) ground truth: exact, CoTracker3, Lucas-Kanade, import; and the published layout."""

from difftrack.annotation._annotate import AnnotateParams, annotate_clip
from difftrack.annotation._cotracker import CoTracker3Params, cotracker3
from difftrack.annotation._errors import AnnotationError, TrackerUnavailableError
from difftrack.annotation._grids import grabcut_mask, query_grid
from difftrack.annotation._lucas_kanade import LucasKanadeParams, lucas_kanade
from difftrack.annotation._published import export_published, import_published, published_prompts
from difftrack.annotation._trackers import (
    TRACKERS,
    Tracker,
    TrackerSettings,
    check_trackers,
    make_tracker,
    register_tracker,
)

__all__ = [
    "TRACKERS",
    "AnnotateParams",
    "AnnotationError",
    "CoTracker3Params",
    "LucasKanadeParams",
    "Tracker",
    "TrackerSettings",
    "TrackerUnavailableError",
    "annotate_clip",
    "check_trackers",
    "cotracker3",
    "export_published",
    "grabcut_mask",
    "import_published",
    "lucas_kanade",
    "make_tracker",
    "published_prompts",
    "query_grid",
    "register_tracker",
]
