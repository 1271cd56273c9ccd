from ._capture_plan import CapturePlan, PlannedCapture, ranges
from ._clip_extraction import CapturedUnit, ClipExtraction, Unit
from ._clips import ClipReader
from ._errors import ExtractionError
from ._extract import Extractor
from ._groups import GroupShelf, ResultShelf, kept_in, lay_others_aside, result_identity
from ._params import (
    AnalysisParams,
    DenoiseParams,
    ExtractParams,
    InversionParams,
    Mode,
    ModeParams,
    TrackingParams,
    TrackingViewParams,
    View,
)

__all__ = [
    "AnalysisParams",
    "CapturePlan",
    "CapturedUnit",
    "ClipExtraction",
    "ClipReader",
    "ExtractParams",
    "ExtractionError",
    "Extractor",
    "GroupShelf",
    "DenoiseParams",
    "InversionParams",
    "Mode",
    "ModeParams",
    "PlannedCapture",
    "TrackingParams",
    "TrackingViewParams",
    "Unit",
    "ResultShelf",
    "View",
    "kept_in",
    "lay_others_aside",
    "ranges",
    "result_identity",
]
