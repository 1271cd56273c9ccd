from ._annotate import annotate_clip
from ._cotracker import cotracker3
from ._errors import AnnotationError, TrackerUnavailableError
from ._grids import grabcut_mask, query_grid
from ._lucas_kanade import lucas_kanade
from ._params import AnnotateParams, CoTracker3Params, LucasKanadeParams
from ._published import export_published, import_published, published_prompts

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
