"""Wan VACE: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, Arguments, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import UMT5

__all__ = ["FAMILY"]


def _vace(repository: str, arguments: Arguments, *, size: tuple[int, int, int], flow_shift: float) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline="WanVACEPipeline",
        transformer=("WanVACETransformer3DModel", arguments),
        vae=("AutoencoderKLWan", NO_ARGUMENTS),
        scheduler=(
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow_shift},
        ),
        size=size,
        small={
            "num_layers": 3,
            "num_attention_heads": 2,
            "ffn_dim": 64,
            "text_dim": 32,
            "freq_dim": 16,
            "vace_layers": [0, 2],
        },
        encoders=UMT5,
    )


FAMILY = BackboneFamily(
    name="vace",
    backbone="difftrack.backbones.families.vace._backbone:WanVACEBackbone",
    transformers=("WanVACETransformer3DModel",),
    pipelines=("WanVACEPipeline",),
    refuses=flow_levels,
    checkpoints={
        "wan2.1-vace-1.3b": _vace(
            "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            {
                "num_attention_heads": 12,
                "num_layers": 30,
                "ffn_dim": 8960,
                "vace_layers": list(range(0, 30, 2)),
            },
            size=(81, 480, 832),
            flow_shift=3.0,
        ),
        "wan2.1-vace-14b": _vace(
            "Wan-AI/Wan2.1-VACE-14B-diffusers", NO_ARGUMENTS, size=(81, 720, 1280), flow_shift=5.0
        ),
    },
)
"""The family, as it is registered."""
