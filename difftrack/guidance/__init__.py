"""Cross-attention guidance: samples pushed away from what the model makes of frames that cannot see each other."""

from difftrack.guidance._attention import SequenceLayout, Variant, perturbed_attention
from difftrack.guidance._branches import Calls
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._guide import Guidance, guide_transformer, guided

__all__ = [
    "Calls",
    "Guidance",
    "GuidanceError",
    "SequenceLayout",
    "Variant",
    "guide_transformer",
    "guided",
    "perturbed_attention",
]
