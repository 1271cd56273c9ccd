"""Wan 2.1 and 2.2: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, Arguments, BackboneFamily, KnownBackbone
from difftrack.backbones.families._encoders import UMT5

__all__ = ["FAMILY"]

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
) -> KnownBackbone:
    scheduler = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow_shift}
    return KnownBackbone(
        repository=repository,
        pipeline=pipeline,
        transformer=("WanTransformer3DModel", arguments),
        vae=("AutoencoderKLWan", vae),
        scheduler=("UniPCMultistepScheduler", scheduler),
        size=size,
        small={**_WAN_SMALL, **small},
        encoders={**UMT5, "image_encoder": _CLIP_IMAGE} if image_encoder else UMT5,
        settings=settings,
    )


FAMILY = BackboneFamily(
    name="wan",
    backbone="difftrack.backbones.families.wan._backbone:WanBackbone",
    transformers=("WanTransformer3DModel",),
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
    },
)
"""The family, as it is registered."""
