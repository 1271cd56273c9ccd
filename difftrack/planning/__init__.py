"""What a run will cost, in bytes and hours, before it starts."""

from difftrack.planning._extract import plan_extraction, probe
from difftrack.planning._plan import Plan, Rates
from difftrack.planning._ratios import recorded_ratio
from difftrack.planning._study import ModelShape, Study, study_table

__all__ = [
    "ModelShape",
    "Plan",
    "Rates",
    "Study",
    "plan_extraction",
    "probe",
    "recorded_ratio",
    "study_table",
]
