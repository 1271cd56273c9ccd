"""SkyReels-V2: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, Arguments, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import UMT5

__all__ = ["FAMILY"]


def _forcing(repository: str, arguments: Arguments) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline="SkyReelsV2DiffusionForcingPipeline",
        transformer=("SkyReelsV2Transformer3DModel", arguments),
        vae=("AutoencoderKLWan", NO_ARGUMENTS),
        scheduler=(
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 8.0},
        ),
        size=(97, 544, 960),
        small={"num_layers": 3, "num_attention_heads": 2, "ffn_dim": 64, "text_dim": 32, "freq_dim": 16},
        encoders=UMT5,
    )


FAMILY = BackboneFamily(
    name="skyreels",
    backbone="difftrack.backbones.families.skyreels._backbone:SkyReelsV2Backbone",
    transformers=("SkyReelsV2Transformer3DModel",),
    pipelines=("SkyReelsV2DiffusionForcingPipeline",),
    refuses=flow_levels,
    checkpoints={
        "skyreels-v2-1.3b": _forcing(
            "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
            {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "inject_sample_info": True},
        ),
        "skyreels-v2-14b": _forcing(
            "Skywork/SkyReels-V2-DF-14B-540P-Diffusers",
            {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824},
        ),
    },
)
"""The family, as it is registered."""
