"""Runs a backbone over a clip and yields descriptors for the wanted (step, layer)."""

from difftrack.extraction._clip_extraction import CapturedUnit, ClipExtraction, Unit
from difftrack.extraction._clips import ClipSource
from difftrack.extraction._errors import ExtractionError
from difftrack.extraction._extract import Extractor
from difftrack.extraction._groups import GroupShelf, ResultShelf, kept_in, lay_others_aside, result_identity
from difftrack.extraction._params import (
    AnalysisParams,
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
    "CapturedUnit",
    "ClipExtraction",
    "ClipSource",
    "ExtractParams",
    "ExtractionError",
    "Extractor",
    "GroupShelf",
    "InversionParams",
    "Mode",
    "ModeParams",
    "TrackingParams",
    "TrackingViewParams",
    "Unit",
    "ResultShelf",
    "View",
    "kept_in",
    "lay_others_aside",
    "result_identity",
]
