"""EasyAnimate 5.1: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import QWEN2_VL

__all__ = ["FAMILY"]

FAMILY = BackboneFamily(
    name="easyanimate",
    backbone="difftrack.backbones.families.easyanimate._backbone:EasyAnimateBackbone",
    transformers=("EasyAnimateTransformer3DModel",),
    pipelines=("EasyAnimatePipeline",),
    refuses=flow_levels,
    checkpoints={
        "easyanimate-5.1-12b": KnownBackbone(
            repository="alibaba-pai/EasyAnimateV5.1-12b-zh-diffusers",
            pipeline="EasyAnimatePipeline",
            transformer=(
                "EasyAnimateTransformer3DModel",
                {"in_channels": 16, "out_channels": 16, "patch_size": 2, "add_norm_text_encoder": True},
            ),
            vae=("AutoencoderKLMagvit", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
            size=(49, 512, 512),
            small={
                "num_layers": 3,
                "mmdit_layers": 2,
                "num_attention_heads": 2,
                "time_embed_dim": 16,
                "text_embed_dim": 32,
            },
            encoders=QWEN2_VL,
        ),
    },
)
"""The family, as it is registered."""
