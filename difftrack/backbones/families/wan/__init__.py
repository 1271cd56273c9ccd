"""Wan 2.1 and 2.2: classes and checkpoints."""

from difftrack.backbones._family import (
    NO_ARGUMENTS,
    Arguments,
    BackboneFamily,
    KnownBackbone,
    PipelineOutline,
    flow_levels,
)
from difftrack.backbones.families._encoders import CLIP_IMAGE, UMT5

__all__ = ["FAMILY"]

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
    "latents_mean": [0.0] * 48,  # the checkpoint's own come with it; the class's are of 16 channels
    "latents_std": [1.0] * 48,
}


def _wan(
    repository: str,
    arguments: Arguments,
    *,
    size: tuple[int, int, int],
    flow_shift: float = 3.0,
    pipeline: str = "WanPipeline",
    vae: Arguments = NO_ARGUMENTS,
    small: Arguments = NO_ARGUMENTS,
    settings: Arguments = NO_ARGUMENTS,
    image_encoder: bool = False,
    experts: bool = False,
) -> KnownBackbone:
    scheduler = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow_shift}
    return KnownBackbone(
        repository=repository,
        pipeline=pipeline,
        transformer=("WanTransformer3DModel", arguments),
        transformer_2=("WanTransformer3DModel", arguments) if experts else None,
        vae=("AutoencoderKLWan", vae),
        scheduler=("UniPCMultistepScheduler", scheduler),
        size=size,
        small={**_WAN_SMALL, **small},
        encoders={**UMT5, "image_encoder": CLIP_IMAGE} if image_encoder else UMT5,
        settings=settings,
    )


_FROM_IMAGE_PIPELINE = "WanImageToVideoPipeline"


def _refuses(outline: PipelineOutline) -> str | None:
    config = outline.configs["transformer"]
    if config.get("pos_embed_seq_len") is not None:
        return "its transformer reads a first and a last image (pos_embed_seq_len), but only a first one is supported"
    reads, denoised = config.get("in_channels", 16), config.get("out_channels") or 16
    per_token = bool(outline.settings.get("expand_timesteps", False))
    mask = outline.configs.get("vae", {}).get("scale_factor_temporal", 4)
    beside = 0 if per_token or _FROM_IMAGE_PIPELINE not in outline.pipelines else denoised + mask
    if reads != denoised + beside:
        return f"its transformer reads {reads} channels, but {outline.pipelines[0]} passes {denoised + beside}"
    return flow_levels(outline)


FAMILY = BackboneFamily(
    name="wan",
    backbone="difftrack.backbones.families.wan._backbone:WanBackbone",
    transformers=("WanTransformer3DModel",),
    pipelines=("WanPipeline", _FROM_IMAGE_PIPELINE),
    refuses=_refuses,
    checkpoints={
        "wan2.1-1.3b": _wan("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", _13B, size=(81, 480, 832)),
        "wan2.1-14b": _wan("Wan-AI/Wan2.1-T2V-14B-Diffusers", NO_ARGUMENTS, size=(81, 720, 1280), flow_shift=5.0),
        "wan2.1-i2v-14b": _wan(
            "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
            {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
            size=(81, 480, 832),
            pipeline="WanImageToVideoPipeline",
            small={"image_dim": 24, "added_kv_proj_dim": 256},
            image_encoder=True,
        ),
        "wan2.2-ti2v-5b": _wan(
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
            _TI2V,
            size=(121, 704, 1280),
            flow_shift=5.0,
            vae=_TI2V_VAE,
            settings={"expand_timesteps": True},
        ),
        "wan2.2-t2v-a14b": _wan(
            "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
            NO_ARGUMENTS,
            size=(81, 720, 1280),
            settings={"boundary_ratio": 0.875},
            experts=True,
        ),
        "wan2.2-i2v-a14b": _wan(
            "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            {"in_channels": 36},
            size=(81, 720, 1280),
            pipeline="WanImageToVideoPipeline",
            settings={"boundary_ratio": 0.9},
            experts=True,
        ),
    },
)
"""The family, as it is registered."""
