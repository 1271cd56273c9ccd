"""Trackers that give (pseudo) ground truth: exact, CoTracker3, Lucas-Kanade, import; and the published layout."""

from difftrack.annotation._annotate import annotate_clip
from difftrack.annotation._cotracker import cotracker3
from difftrack.annotation._errors import AnnotationError, TrackerUnavailableError
from difftrack.annotation._grids import grabcut_mask, query_grid
from difftrack.annotation._lucas_kanade import lucas_kanade
from difftrack.annotation._params import AnnotateParams, CoTracker3Params, LucasKanadeParams
from difftrack.annotation._published import export_published, import_published, published_prompts

__all__ = [
    "AnnotateParams",
    "AnnotationError",
    "CoTracker3Params",
    "LucasKanadeParams",
    "TrackerUnavailableError",
    "annotate_clip",
    "cotracker3",
    "export_published",
    "grabcut_mask",
    "import_published",
    "lucas_kanade",
    "published_prompts",
    "query_grid",
]
