"""ChronoEdit: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import CLIP_IMAGE, UMT5

__all__ = ["FAMILY"]

FAMILY = BackboneFamily(
    name="chronoedit",
    backbone="difftrack.backbones.families.chronoedit._backbone:ChronoEditBackbone",
    transformers=("ChronoEditTransformer3DModel",),
    pipelines=("ChronoEditPipeline",),
    refuses=flow_levels,
    checkpoints={
        "chronoedit-14b": KnownBackbone(
            repository="nvidia/ChronoEdit-14B-Diffusers",
            pipeline="ChronoEditPipeline",
            transformer=(
                "ChronoEditTransformer3DModel",
                {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
            ),
            vae=("AutoencoderKLWan", NO_ARGUMENTS),
            scheduler=(
                "UniPCMultistepScheduler",
                {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0},
            ),
            size=(29, 480, 832),
            small={
                "num_layers": 3,
                "num_attention_heads": 2,
                "ffn_dim": 64,
                "text_dim": 32,
                "freq_dim": 16,
                "image_dim": 24,
                "added_kv_proj_dim": 256,
            },
            encoders={**UMT5, "image_encoder": CLIP_IMAGE},
        ),
    },
)
"""The family, as it is registered."""
