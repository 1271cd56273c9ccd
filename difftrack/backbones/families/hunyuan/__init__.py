"""HunyuanVideo: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline, flow_levels
from difftrack.backbones.families._encoders import CLIP_TEXT, LLAMA_TEXT

__all__ = ["FAMILY"]


def _refuses(outline: PipelineOutline) -> str | None:
    config = outline.configs["transformer"]
    if (condition := config.get("image_condition_type")) is not None:
        return f"its transformer reads an image (image_condition_type {condition}), but only text to video is supported"
    reads, denoised = config.get("in_channels", 16), config.get("out_channels") or 16
    if reads != denoised:
        return f"its transformer reads {reads} channels, but {outline.pipelines[0]} passes {denoised}"
    return flow_levels(outline)


FAMILY = BackboneFamily(
    name="hunyuan",
    backbone="difftrack.backbones.families.hunyuan._backbone:HunyuanVideoBackbone",
    transformers=("HunyuanVideoTransformer3DModel",),
    pipelines=("HunyuanVideoPipeline",),
    refuses=_refuses,
    checkpoints={
        "hunyuan-video": KnownBackbone(
            repository="hunyuanvideo-community/HunyuanVideo",
            aliases=("hunyuan_t2v",),
            pipeline="HunyuanVideoPipeline",
            transformer=("HunyuanVideoTransformer3DModel", NO_ARGUMENTS),
            vae=("AutoencoderKLHunyuanVideo", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
            size=(129, 720, 1280),
            small={
                "num_layers": 2,
                "num_single_layers": 2,
                "num_attention_heads": 2,
                "num_refiner_layers": 1,
                "text_embed_dim": 32,
                "pooled_projection_dim": 16,
            },
            encoders={"text_encoder": LLAMA_TEXT, "text_encoder_2": CLIP_TEXT},
        ),
    },
)
"""The family, as it is registered."""
