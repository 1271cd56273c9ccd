from ._attention import SequenceLayout, perturbed_attention
from ._branches import CfgCallPattern, calls_at
from ._errors import GuidanceError
from ._guide import check_layers, guide_transformer, guided
from ._params import Guidance, GuideParams, Variant, read_ranking
from ._samples import SampleOutcome, sample_prompts

__all__ = [
    "CfgCallPattern",
    "Guidance",
    "GuidanceError",
    "GuideParams",
    "SampleOutcome",
    "SequenceLayout",
    "Variant",
    "calls_at",
    "check_layers",
    "guide_transformer",
    "guided",
    "perturbed_attention",
    "read_ranking",
    "sample_prompts",
]
