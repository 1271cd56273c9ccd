"""Kandinsky 6: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import CLIP_TEXT, QWEN_VL

__all__ = ["FAMILY"]

FAMILY = BackboneFamily(
    name="kandinsky6",
    backbone="difftrack.backbones.families.kandinsky6._backbone:Kandinsky6Backbone",
    transformers=("Kandinsky6Transformer3DModel",),
    pipelines=("Kandinsky6TI2VAPipeline",),
    refuses=flow_levels,
    checkpoints={
        "kandinsky-6-pro": KnownBackbone(
            repository="kandinskylab/Kandinsky-6.0-Pro-distill-5s-Diffusers",
            pipeline="Kandinsky6TI2VAPipeline",
            transformer=("Kandinsky6Transformer3DModel", NO_ARGUMENTS),
            vae=("AutoencoderKLHunyuanVideo", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
            size=(121, 512, 768),
            small={
                "num_visual_blocks": 3,
                "num_text_blocks": 1,
                "model_dim": 256,
                "ff_dim": 64,
                "time_dim": 16,
                "in_text_dim": 32,
                "in_text_dim2": 24,
            },
            encoders={**QWEN_VL, "text_encoder_2": CLIP_TEXT},
        ),
    },
)
"""The family, as it is registered."""
