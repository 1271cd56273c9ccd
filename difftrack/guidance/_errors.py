"""The error of this room."""

from difftrack.interventions import InterventionError

__all__ = ["GuidanceError"]

GuidanceError = InterventionError
"""A backbone cannot be guided as requested; an intervention error, since guidance is one."""
