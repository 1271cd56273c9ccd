"""What the named backbones are made of: constructor arguments of their classes, and the size that each is made for.

Only what differs from the classes' own defaults stands here. Layers, heads, channels and strides are not written down:
they are read from the classes, built without memory (`constructed_backbone`).

Source: the configs of the published checkpoints and diffusers' conversion scripts; parameter counts agree with the
published ones, see docs/backbones.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from difftrack.backbones._params import ImageCondition

__all__ = ["KNOWN", "KnownBackbone"]

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBackbone:
    """Classes of diffusers by name, and their arguments."""

    pipeline: str
    transformer: tuple[str, Arguments]
    vae: tuple[str, Arguments]
    scheduler: tuple[str, Arguments]
    size: tuple[int, int, int]
    """(frames, height, width) of the clips that it is made for."""
    small: Arguments
    """Arguments of the transformer that make it small, its channels per head as they are."""
    encoders: Mapping[str, tuple[str, Arguments]]
    """Of text and image, by component: class of transformers and arguments of its config."""
    settings: Arguments = field(default_factory=dict)
    """Arguments of the pipeline that are not components."""
    image_condition: ImageCondition = "checkpoint"
    """Where the name says more than the checkpoint's own pipeline."""


_DEFAULTS: Arguments = MappingProxyType({})

_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_T5 = {"text_encoder": ("T5EncoderModel", {**_XXL, "vocab_size": 32128})}
_UMT5 = {"text_encoder": ("UMT5EncoderModel", {**_XXL, "vocab_size": 256384})}
_CLIP_IMAGE = (
    "CLIPVisionModel",
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
)
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
_CLIP_TEXT = (
    "CLIPTextModel",
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
)
_QWEN = (
    "Qwen2_5_VLTextModel",
    {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
)
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

_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_15 = _5B | {"patch_size_t": 2, "patch_bias": False, "sample_frames": 81}
_FROM_IMAGE = {"in_channels": 32}


def _cogvideox(
    arguments: Arguments,
    *,
    size: tuple[int, int, int] = (49, 480, 720),
    snr_shift_scale: float = 1.0,
    image_condition: ImageCondition = "checkpoint",
) -> KnownBackbone:
    scheduler = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False}
    return KnownBackbone(
        pipeline="CogVideoXImageToVideoPipeline" if "in_channels" in arguments else "CogVideoXPipeline",
        transformer=("CogVideoXTransformer3DModel", arguments),
        vae=("AutoencoderKLCogVideoX", _DEFAULTS),
        scheduler=("CogVideoXDDIMScheduler", scheduler | {"snr_shift_scale": snr_shift_scale}),
        size=size,
        small={
            "num_layers": 3,
            "num_attention_heads": 2,
            "text_embed_dim": 32,
            "sample_frames": 9,
            "sample_height": 6,
            "sample_width": 10,
        },
        encoders=_T5,
        image_condition=image_condition,
    )


_13B = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
_WAN_SMALL = {"num_layers": 3, "num_attention_heads": 2, "ffn_dim": 64, "text_dim": 32, "freq_dim": 16}
_TI2V = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
_TI2V_VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}


def _wan(
    arguments: Arguments,
    *,
    size: tuple[int, int, int],
    flow_shift: float = 3.0,
    pipeline: str = "WanPipeline",
    transformer: str = "WanTransformer3DModel",
    vae: Arguments = _DEFAULTS,
    small: Arguments = _DEFAULTS,
    settings: Arguments = _DEFAULTS,
    image_encoder: bool = False,
) -> KnownBackbone:
    scheduler = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow_shift}
    return KnownBackbone(
        pipeline=pipeline,
        transformer=(transformer, arguments),
        vae=("AutoencoderKLWan", vae),
        scheduler=("UniPCMultistepScheduler", scheduler),
        size=size,
        small={**_WAN_SMALL, **small},
        encoders={**_UMT5, "image_encoder": _CLIP_IMAGE} if image_encoder else _UMT5,
        settings=settings,
    )


def _ltx(pipeline: str, arguments: Arguments, *, scheduler: Arguments, small_width: int) -> KnownBackbone:
    return KnownBackbone(
        pipeline=pipeline,
        transformer=("LTXVideoTransformer3DModel", arguments),
        vae=("AutoencoderKLLTXVideo", _DEFAULTS),
        scheduler=("FlowMatchEulerDiscreteScheduler", scheduler),
        size=(161, 512, 704),
        small={"num_layers": 3, "num_attention_heads": 2, "cross_attention_dim": small_width, "caption_channels": 32},
        encoders=_T5,
    )


KNOWN: Mapping[str, KnownBackbone] = MappingProxyType({
    "cogvideox-2b": _cogvideox(_DEFAULTS, snr_shift_scale=3.0),
    "cogvideox-5b": _cogvideox(_5B),
    "cogvideox-1.5-5b": _cogvideox(_15, size=(81, 768, 1360)),
    "cogvideox-2b-i2v": _cogvideox(_FROM_IMAGE, snr_shift_scale=3.0, image_condition="every_frame"),
    "cogvideox-5b-i2v": _cogvideox(_5B | _FROM_IMAGE | {"use_learned_positional_embeddings": True}),
    "cogvideox-1.5-5b-i2v": _cogvideox(_15 | _FROM_IMAGE | {"ofs_embed_dim": 512}, size=(81, 768, 1360)),
    "hunyuan-video": KnownBackbone(
        pipeline="HunyuanVideoPipeline",
        transformer=("HunyuanVideoTransformer3DModel", _DEFAULTS),
        vae=("AutoencoderKLHunyuanVideo", _DEFAULTS),
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
        encoders={"text_encoder": _LLAMA, "text_encoder_2": _CLIP_TEXT},
    ),
    "hunyuan-video-1.5": KnownBackbone(
        pipeline="HunyuanVideo15Pipeline",
        transformer=("HunyuanVideo15Transformer3DModel", {"task_type": "t2v"}),
        vae=("AutoencoderKLHunyuanVideo15", _DEFAULTS),
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
        encoders={"text_encoder": _QWEN, "text_encoder_2": _GLYPHS},
    ),
    "wan2.1-1.3b": _wan(_13B, size=(81, 480, 832)),
    "wan2.1-14b": _wan(_DEFAULTS, size=(81, 720, 1280), flow_shift=5.0),
    "wan2.1-i2v-14b": _wan(
        {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
        size=(81, 480, 832),
        pipeline="WanImageToVideoPipeline",
        small={"image_dim": 24, "added_kv_proj_dim": 256},
        image_encoder=True,
    ),
    "wan2.2-ti2v-5b": _wan(
        _TI2V, size=(121, 704, 1280), flow_shift=5.0, vae=_TI2V_VAE, settings={"expand_timesteps": True}
    ),
    "ltx-2b": _ltx(
        "LTXPipeline",
        _DEFAULTS,
        scheduler={"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05},
        small_width=128,
    ),
    "ltx-13b": _ltx(
        "LTXConditionPipeline",
        {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
        scheduler=_DEFAULTS,
        small_width=256,
    ),
    "mochi-1": KnownBackbone(
        pipeline="MochiPipeline",
        transformer=("MochiTransformer3DModel", _DEFAULTS),
        vae=("AutoencoderKLMochi", _DEFAULTS),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        size=(163, 480, 848),
        small={
            "num_layers": 3,
            "num_attention_heads": 2,
            "pooled_projection_dim": 32,
            "text_embed_dim": 32,
            "time_embed_dim": 16,
        },
        encoders=_T5,
    ),
    "allegro": KnownBackbone(
        pipeline="AllegroPipeline",
        transformer=("AllegroTransformer3DModel", _DEFAULTS),
        vae=("AutoencoderKLAllegro", _DEFAULTS),
        scheduler=("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
        size=(88, 720, 1280),
        small={"num_layers": 3, "num_attention_heads": 2, "cross_attention_dim": 192, "caption_channels": 32},
        encoders=_T5,
    ),
    "skyreels-v2-1.3b": _wan(
        _13B | {"inject_sample_info": True},
        size=(97, 544, 960),
        flow_shift=8.0,
        pipeline="SkyReelsV2DiffusionForcingPipeline",
        transformer="SkyReelsV2Transformer3DModel",
    ),
})  # fmt: skip
"""By the names of `CHECKPOINTS`."""
