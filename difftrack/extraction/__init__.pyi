from ._capture_plan import CapturePlan, PlannedCapture, ranges
from ._clip_extraction import CapturedUnit, ClipExtraction, Unit
from ._clips import ClipReader
from ._encoded_clip import EncodedClip
from ._errors import ExtractionError
from ._extract import Extractor
from ._frame_encoding import encode_frames
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
    "EncodedClip",
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
    "encode_frames",
    "kept_in",
    "lay_others_aside",
    "ranges",
    "result_identity",
]
