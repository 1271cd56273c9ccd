"""Mochi 1: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import T5

__all__ = ["FAMILY"]

FAMILY = BackboneFamily(
    name="mochi",
    backbone="difftrack.backbones.families.mochi._backbone:MochiBackbone",
    transformers=("MochiTransformer3DModel",),
    pipelines=("MochiPipeline",),
    refuses=flow_levels,
    checkpoints={
        "mochi-1": KnownBackbone(
            repository="genmo/mochi-1-preview",
            pipeline="MochiPipeline",
            transformer=("MochiTransformer3DModel", NO_ARGUMENTS),
            vae=("AutoencoderKLMochi", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
            size=(163, 480, 848),
            small={
                "num_layers": 3,
                "num_attention_heads": 2,
                "pooled_projection_dim": 32,
                "text_embed_dim": 32,
                "time_embed_dim": 16,
            },
            encoders=T5,
        ),
    },
)
"""The family, as it is registered."""
