"""HunyuanVideo FramePack: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline, flow_levels
from difftrack.backbones.families._encoders import CLIP_TEXT, LLAMA_TEXT, SIGLIP

__all__ = ["FAMILY"]


def _refuses(outline: PipelineOutline) -> str | None:
    config = outline.configs["transformer"]
    absent = [key for key in ("has_image_proj", "has_clean_x_embedder") if not config.get(key, False)]
    if absent:
        return (
            f"its transformer was made without {' and '.join(absent)}, and the pipeline gives it an image and a history"
        )
    return flow_levels(outline)


FAMILY = BackboneFamily(
    name="framepack",
    backbone="difftrack.backbones.families.framepack._backbone:FramePackBackbone",
    transformers=("HunyuanVideoFramepackTransformer3DModel",),
    pipelines=("HunyuanVideoFramepackPipeline",),
    refuses=_refuses,
    checkpoints={
        "framepack-i2v": KnownBackbone(
            repository="lllyasviel/FramePackI2V_HY",
            pipeline="HunyuanVideoFramepackPipeline",
            transformer=(
                "HunyuanVideoFramepackTransformer3DModel",
                {"has_image_proj": True, "has_clean_x_embedder": True},
            ),
            vae=("AutoencoderKLHunyuanVideo", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
            size=(37, 480, 832),
            small={
                "num_layers": 2,
                "num_single_layers": 2,
                "num_attention_heads": 2,
                "num_refiner_layers": 1,
                "text_embed_dim": 32,
                "pooled_projection_dim": 16,
                "image_proj_dim": 24,
            },
            encoders={"text_encoder": LLAMA_TEXT, "text_encoder_2": CLIP_TEXT, "image_encoder": SIGLIP},
        ),
    },
)
"""The family, as it is registered."""
