"""Estimate the cost of each stage of a run before it starts: forward passes, seconds on a measured GPU, bytes."""

from difftrack.estimates._costs import Card, StageCost, stage_lines
from difftrack.estimates._estimates import plan_stages
from difftrack.estimates._sequence import STAGES, stages_of

__all__ = ["STAGES", "Card", "StageCost", "plan_stages", "stage_lines", "stages_of"]
