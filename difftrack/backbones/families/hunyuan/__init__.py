"""HunyuanVideo: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone
from difftrack.backbones.families._encoders import CLIP_TEXT

__all__ = ["FAMILY"]

_LLAMA = (
    "LlamaModel",
    {
        "vocab_size": 128320,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
)

FAMILY = BackboneFamily(
    name="hunyuan",
    backbone="difftrack.backbones.families.hunyuan._backbone:HunyuanVideoBackbone",
    transformers=("HunyuanVideoTransformer3DModel",),
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
            encoders={"text_encoder": _LLAMA, "text_encoder_2": CLIP_TEXT},
        ),
    },
)
"""The family, as it is registered."""
