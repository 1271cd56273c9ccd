"""How this room refuses."""

from difftrack.interventions import InterventionError

__all__ = ["GuidanceError"]

GuidanceError = InterventionError
"""Guidance is an intervention and a second forward, and refuses as interventions do."""
