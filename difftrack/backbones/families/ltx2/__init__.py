"""LTX-2, 2.3 and 2.5: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, Arguments, BackboneFamily, KnownBackbone, flow_levels

__all__ = ["FAMILY"]

_GEMMA = (
    "Gemma3ForConditionalGeneration",
    {
        "text_config": {
            "vocab_size": 262208,
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
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
_23 = {
    "gated_attn": True,
    "cross_attn_mod": True,
    "audio_gated_attn": True,
    "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}
_25 = {**_23, "ff_bias": False, "use_keyframes_abs_pos_embedding": True}


def _ltx2(repository: str, arguments: Arguments) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline="LTX2Pipeline",
        transformer=("LTX2VideoTransformer3DModel", {"rope_type": "split", **arguments}),
        vae=(
            "AutoencoderKLLTX2Video",
            {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8, "decoder_causal": False},
        ),
        scheduler=(
            "FlowMatchEulerDiscreteScheduler",
            {
                "use_dynamic_shifting": True,
                "base_shift": 0.95,
                "max_shift": 2.05,
                "base_image_seq_len": 1024,
                "max_image_seq_len": 4096,
                "shift_terminal": 0.1,
            },
        ),
        size=(121, 512, 768),
        small={
            "num_layers": 3,
            "num_attention_heads": 2,
            "cross_attention_dim": 256,
            "audio_num_attention_heads": 2,
            "audio_cross_attention_dim": 128,
            "caption_channels": 32,
        },
        encoders={"text_encoder": _GEMMA},
    )


FAMILY = BackboneFamily(
    name="ltx2",
    backbone="difftrack.backbones.families.ltx2._backbone:LTX2Backbone",
    transformers=("LTX2VideoTransformer3DModel",),
    pipelines=("LTX2Pipeline",),
    refuses=flow_levels,
    checkpoints={
        "ltx-2": _ltx2("Lightricks/LTX-2", NO_ARGUMENTS),
        "ltx-2.3": _ltx2("Lightricks/LTX-2.3", _23),
        "ltx-2.5": _ltx2("Lightricks/LTX-2.5", _25),
    },
)
"""The family, as it is registered."""
