"""What every stage of a run takes before it starts: forwards, seconds on a card that was measured, bytes."""

from difftrack.estimates._costs import Card, StageCost, stage_lines
from difftrack.estimates._estimates import plan_stages
from difftrack.estimates._sequence import STAGES, stages_of

__all__ = ["STAGES", "Card", "StageCost", "plan_stages", "stage_lines", "stages_of"]
