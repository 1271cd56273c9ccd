"""What each video diffusion transformer is, how to run it to a step, and the seam that captures its attention."""

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._check import CaptureCheck, check_capture
from difftrack.backbones._conditions import Generated, ImageConditioning, PromptEmbedding, Trajectory
from difftrack.backbones._descriptors import KINDS, Kind, LayerDescriptors
from difftrack.backbones._errors import BackboneError, CaptureError
from difftrack.backbones._family import BackboneFamily
from difftrack.backbones._known import KNOWN, KnownBackbone
from difftrack.backbones._load import load_backbone
from difftrack.backbones._memory import MemoryNeed, memory_needs
from difftrack.backbones._names import ALIASES, CHECKPOINTS, SHIPPED
from difftrack.backbones._params import ModelParams
from difftrack.backbones._pipelines import CogVideoXEveryFramePipeline
from difftrack.backbones._random_init import constructed_backbone
from difftrack.backbones._registry import register_backbone
from difftrack.backbones._schedule import (
    FlowSchedule,
    InversionForm,
    NoiseSchedule,
    Schedule,
    VelocitySchedule,
    round_trip_error,
)
from difftrack.backbones._seam import AttentionCall, AttentionFunction, intercept
from difftrack.backbones._summary import BackboneSummary, summaries
from difftrack.backbones._trajectory import read_trajectory, write_trajectory

__all__ = [
    "ALIASES",
    "CHECKPOINTS",
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
    "FlowSchedule",
    "Generated",
    "ImageConditioning",
    "InversionForm",
    "Kind",
    "KnownBackbone",
    "LayerDescriptors",
    "MemoryNeed",
    "ModelParams",
    "NoiseSchedule",
    "PromptEmbedding",
    "Schedule",
    "Trajectory",
    "VelocitySchedule",
    "check_capture",
    "constructed_backbone",
    "intercept",
    "load_backbone",
    "memory_needs",
    "read_trajectory",
    "register_backbone",
    "round_trip_error",
    "summaries",
    "write_trajectory",
]
