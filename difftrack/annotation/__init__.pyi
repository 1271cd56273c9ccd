from ._annotate import annotate_clip
from ._cotracker import cotracker3
from ._errors import AnnotationError, TrackerUnavailableError
from ._grids import grabcut_mask, mask_from_file, query_grid
from ._lucas_kanade import lucas_kanade
from ._params import AnnotateParams, CoTracker3Params, LucasKanadeParams, TrackerSettings
from ._published import export_published, import_published, published_prompts
from ._trackers import TRACKERS, Tracker, check_trackers, make_tracker, register_tracker

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
    "mask_from_file",
    "query_grid",
    "register_tracker",
]
