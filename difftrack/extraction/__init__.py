"""Runs a backbone over a clip and yields descriptors for the wanted (step, layer)."""

from difftrack.extraction._errors import ExtractionError
from difftrack.extraction._extract import ClipExtraction, Extractor, Unit
from difftrack.extraction._params import AnalysisParams, InversionParams, Mode, ModeParams, TrackingViewParams

__all__ = [
    "AnalysisParams",
    "ClipExtraction",
    "ExtractionError",
    "Extractor",
    "InversionParams",
    "Mode",
    "ModeParams",
    "TrackingViewParams",
    "Unit",
]
