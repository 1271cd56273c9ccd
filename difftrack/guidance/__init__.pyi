from ._errors import GuidanceError
from ._guide import (
    CfgCallPattern,
    SequenceLayout,
    calls_at,
    check_layers,
    guide_transformer,
    guided,
    perturbation,
    perturbed_attention,
)
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
    "perturbation",
    "perturbed_attention",
    "read_ranking",
    "sample_prompts",
]
