"""HunyuanVideo 1.5: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline, flow_levels
from difftrack.backbones.families._encoders import QWEN_VL_TEXT

__all__ = ["FAMILY"]

_GLYPHS = (
    "T5EncoderModel",
    {
        "vocab_size": 1510,
        "d_model": 1472,
        "d_ff": 3584,
        "d_kv": 64,
        "num_layers": 12,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    },
)


def _refuses(outline: PipelineOutline) -> str | None:
    task = outline.configs["transformer"].get("task_type", "i2v")
    if task != "t2v":
        return f"its transformer was trained for the task {task}, but only t2v is supported"
    return flow_levels(outline)


FAMILY = BackboneFamily(
    name="hunyuan15",
    backbone="difftrack.backbones.families.hunyuan15._backbone:HunyuanVideo15Backbone",
    transformers=("HunyuanVideo15Transformer3DModel",),
    pipelines=("HunyuanVideo15Pipeline",),
    refuses=_refuses,
    checkpoints={
        "hunyuan-video-1.5": KnownBackbone(
            repository="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
            pipeline="HunyuanVideo15Pipeline",
            transformer=("HunyuanVideo15Transformer3DModel", {"task_type": "t2v"}),
            vae=("AutoencoderKLHunyuanVideo15", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
            size=(121, 480, 848),
            small={
                "num_layers": 3,
                "num_attention_heads": 2,
                "num_refiner_layers": 1,
                "text_embed_dim": 32,
                "text_embed_2_dim": 24,
                "image_embed_dim": 16,
            },
            encoders={"text_encoder": ("Qwen2_5_VLTextModel", QWEN_VL_TEXT), "text_encoder_2": _GLYPHS},
        ),
    },
)
"""The family, as it is registered."""
