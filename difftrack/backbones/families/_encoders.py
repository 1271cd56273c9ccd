"""Text encoders that several families share."""

__all__ = [
    "CLIP_IMAGE",
    "CLIP_TEXT",
    "LLAMA_TEXT",
    "QWEN2_VL",
    "QWEN_VL",
    "QWEN_VL_TEXT",
    "SIGLIP",
    "T5",
    "T5_11B",
    "UMT5",
]

_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
CLIP_IMAGE = (
    "CLIPVisionModel",
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
)
"""The image part of CLIP ViT-H/14."""
CLIP_TEXT = (
    "CLIPTextModel",
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
)
"""The text part of CLIP ViT-L/14."""
T5 = {"text_encoder": ("T5EncoderModel", {**_XXL, "vocab_size": 32128})}
UMT5 = {"text_encoder": ("UMT5EncoderModel", {**_XXL, "vocab_size": 256384})}
T5_11B = {
    "text_encoder": (
        "T5EncoderModel",
        {"d_model": 1024, "d_ff": 65536, "d_kv": 128, "num_layers": 24, "num_heads": 128, "vocab_size": 32128},
    )
}
QWEN_VL_TEXT = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
"""The language part of Qwen2.5-VL-7B."""
_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN_VL = {
    "text_encoder": (
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": QWEN_VL_TEXT, "vision_config": _QWEN_VISION},
    )
}
"""Qwen2.5-VL-7B, all of it."""
QWEN2_VL = {
    "text_encoder": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": QWEN_VL_TEXT,
            "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "patch_size": 14},
        },
    )
}
"""Qwen2-VL-7B, all of it."""
LLAMA_TEXT = (
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
"""Llama 3 8B, as HunyuanVideo reads it."""
SIGLIP = (
    "SiglipVisionModel",
    {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
)
"""The image part of SigLIP so400m."""
