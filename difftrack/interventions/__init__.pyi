from ._attends import Attend, Identity, OwnFrame
from ._attention import SequenceLayout, perturbed_attention
from ._branches import Branch, BranchReader, CfgCallPattern, calls_at
from ._edits import Edit, Freeze, Mean, Patch, Recording, Scale, Swap, Zero
from ._engine import Engine, Moment
from ._errors import InterventionError
from ._intervene import intervene_in, intervening
from ._params import CutVariant
from ._replay import Prefix, blocks_around, replaced_forward
from ._sites import Intervention, Site
from ._skip import SkipLayer
from ._specs import WORDS, read_intervention

__all__ = [
    "WORDS",
    "Attend",
    "Branch",
    "BranchReader",
    "CfgCallPattern",
    "CutVariant",
    "Edit",
    "Engine",
    "Freeze",
    "Identity",
    "Intervention",
    "InterventionError",
    "Mean",
    "Moment",
    "OwnFrame",
    "Patch",
    "Prefix",
    "Recording",
    "Scale",
    "SequenceLayout",
    "Site",
    "SkipLayer",
    "Swap",
    "Zero",
    "blocks_around",
    "calls_at",
    "intervene_in",
    "intervening",
    "perturbed_attention",
    "read_intervention",
    "replaced_forward",
]
