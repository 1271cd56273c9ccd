from ._backbone import Backbone
from ._check import CaptureCheck, check_capture
from ._conditions import Generated, ImageConditioning, PromptEmbedding, Trajectory
from ._descriptors import HistoryDescriptors, LayerDescriptors, SequencePart, TextPosition
from ._errors import BackboneError, CaptureError
from ._family import BackboneFamily, KnownBackbone
from ._identity import missing_weights
from ._live import wrap_pipeline
from ._load import load_backbone
from ._memory import MemoryNeed, Work, card_bytes, memory_needs, need_of
from ._names import ALIASES, CHECKPOINTS, SHIPPED, canonical_name, shipped_backbone
from ._params import DEFAULT_KINDS, KINDS, CapturedKind, FeatureKind, ModelParams
from ._pipelines import CogVideoXEveryFramePipeline
from ._random_init import constructed_backbone
from ._registry import KNOWN, register_backbone
from ._schedule import (
    FlowSchedule,
    InversionForm,
    NoiseSchedule,
    Schedule,
    VelocitySchedule,
    round_trip_error,
)
from ._seam import AttentionCall, AttentionFunction, EditFunction, intercept
from ._summary import BackboneSummary, summaries
from ._trajectory import read_trajectory, write_trajectory
from ._words import known_words, unknown_words

__all__ = [
    "ALIASES",
    "CHECKPOINTS",
    "DEFAULT_KINDS",
    "KINDS",
    "KNOWN",
    "SHIPPED",
    "AttentionCall",
    "AttentionFunction",
    "Backbone",
    "BackboneError",
    "BackboneFamily",
    "BackboneSummary",
    "CaptureCheck",
    "CaptureError",
    "CogVideoXEveryFramePipeline",
    "EditFunction",
    "FeatureKind",
    "FlowSchedule",
    "Generated",
    "HistoryDescriptors",
    "ImageConditioning",
    "InversionForm",
    "CapturedKind",
    "KnownBackbone",
    "LayerDescriptors",
    "TextPosition",
    "MemoryNeed",
    "ModelParams",
    "NoiseSchedule",
    "PromptEmbedding",
    "Schedule",
    "SequencePart",
    "Trajectory",
    "VelocitySchedule",
    "Work",
    "canonical_name",
    "card_bytes",
    "check_capture",
    "constructed_backbone",
    "intercept",
    "known_words",
    "load_backbone",
    "memory_needs",
    "missing_weights",
    "need_of",
    "read_trajectory",
    "register_backbone",
    "round_trip_error",
    "shipped_backbone",
    "summaries",
    "unknown_words",
    "wrap_pipeline",
    "write_trajectory",
]
