"""Motif-Video: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, flow_levels

__all__ = ["FAMILY"]

_T5_GEMMA = (
    "T5Gemma2Encoder",
    {
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262144,
            "dropout_rate": 0.0,
        },
        "vision_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 896,
        },
    },
)


FAMILY = BackboneFamily(
    name="motif",
    backbone="difftrack.backbones.families.motif._backbone:MotifVideoBackbone",
    transformers=("MotifVideoTransformer3DModel",),
    pipelines=("MotifVideoPipeline",),
    refuses=flow_levels,
    checkpoints={
        "motif-video-2b": KnownBackbone(
            repository="Motif-Technologies/Motif-Video-2B",
            pipeline="MotifVideoPipeline",
            transformer=(
                "MotifVideoTransformer3DModel",
                {
                    "num_attention_heads": 12,
                    "num_layers": 12,
                    "num_single_layers": 24,
                    "num_decoder_layers": 8,
                    "text_embed_dim": 2560,
                    "enable_text_cross_attention_dual": True,
                    "enable_text_cross_attention_single": True,
                },
            ),
            vae=("AutoencoderKLWan", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
            size=(121, 736, 1280),
            small={
                "num_layers": 1,
                "num_single_layers": 3,
                "num_decoder_layers": 1,
                "num_attention_heads": 2,
                "text_embed_dim": 32,
            },
            encoders={"text_encoder": _T5_GEMMA},
        ),
    },
)
"""The family, as it is registered."""
