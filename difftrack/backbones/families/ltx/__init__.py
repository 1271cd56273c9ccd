"""LTX-Video: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, Arguments, BackboneFamily, KnownBackbone, flow_levels
from difftrack.backbones.families._encoders import T5

__all__ = ["FAMILY"]


def _ltx(
    repository: str, pipeline: str, arguments: Arguments, *, scheduler: Arguments, small_width: int
) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline=pipeline,
        transformer=("LTXVideoTransformer3DModel", arguments),
        vae=("AutoencoderKLLTXVideo", NO_ARGUMENTS),
        scheduler=("FlowMatchEulerDiscreteScheduler", scheduler),
        size=(161, 512, 704),
        small={"num_layers": 3, "num_attention_heads": 2, "cross_attention_dim": small_width, "caption_channels": 32},
        encoders=T5,
    )


FAMILY = BackboneFamily(
    name="ltx",
    backbone="difftrack.backbones.families.ltx._backbone:LTXBackbone",
    transformers=("LTXVideoTransformer3DModel",),
    pipelines=("LTXPipeline", "LTXConditionPipeline"),
    refuses=flow_levels,
    checkpoints={
        "ltx-2b": _ltx(
            "Lightricks/LTX-Video",
            "LTXPipeline",
            NO_ARGUMENTS,
            scheduler={"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05},
            small_width=128,
        ),
        "ltx-13b": _ltx(
            "Lightricks/LTX-Video-0.9.7-dev",
            "LTXConditionPipeline",
            {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
            scheduler=NO_ARGUMENTS,
            small_width=256,
        ),
    },
)
"""The family, as it is registered."""
