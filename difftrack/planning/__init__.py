"""Estimate the bytes and hours of a run before it starts, and find stored data that no run needs."""

from difftrack.planning._extract import plan_extraction, probe
from difftrack.planning._leftovers import Leftover, find_leftovers, uncertain_clips
from difftrack.planning._params import outline_clips, plan_params
from difftrack.planning._plan import Plan, Rates, duration, size
from difftrack.planning._ratios import recorded_ratio
from difftrack.planning._study import ModelShape, Study, study_table

__all__ = [
    "Leftover",
    "ModelShape",
    "Plan",
    "Rates",
    "Study",
    "duration",
    "find_leftovers",
    "outline_clips",
    "plan_extraction",
    "plan_params",
    "probe",
    "recorded_ratio",
    "size",
    "study_table",
    "uncertain_clips",
]
