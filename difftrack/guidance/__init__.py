"""Cross-attention guidance: samples pushed away from what the model makes of frames that cannot see each other."""

from difftrack.guidance._attention import SequenceLayout, perturbed_attention
from difftrack.guidance._branches import Calls
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._guide import guide_transformer, guided
from difftrack.guidance._params import Guidance, GuideParams, Variant, read_ranking
from difftrack.guidance._samples import Outcome, sample_prompts

__all__ = [
    "Calls",
    "Guidance",
    "GuidanceError",
    "GuideParams",
    "Outcome",
    "SequenceLayout",
    "Variant",
    "guide_transformer",
    "guided",
    "perturbed_attention",
    "read_ranking",
    "sample_prompts",
]
