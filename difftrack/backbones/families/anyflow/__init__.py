"""AnyFlow, with full attention: classes and checkpoints."""

from difftrack.backbones._family import (
    NO_ARGUMENTS,
    Arguments,
    BackboneFamily,
    KnownBackbone,
    PipelineOutline,
    flow_levels,
)
from difftrack.backbones.families._encoders import UMT5

__all__ = ["FAMILY"]

_13B = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
_FLOW_MAP = "FlowMapEulerDiscreteScheduler"


def _refuses(outline: PipelineOutline) -> str | None:
    return None if outline.components.get("scheduler") == _FLOW_MAP else flow_levels(outline)


def _anyflow(repository: str, arguments: Arguments, *, size: tuple[int, int, int]) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline="AnyFlowPipeline",
        transformer=("AnyFlowTransformer3DModel", arguments),
        vae=("AutoencoderKLWan", NO_ARGUMENTS),
        scheduler=(_FLOW_MAP, {"shift": 5.0}),
        size=size,
        small={"num_layers": 3, "num_attention_heads": 2, "ffn_dim": 64, "text_dim": 32, "freq_dim": 16},
        encoders=UMT5,
    )


FAMILY = BackboneFamily(
    name="anyflow",
    backbone="difftrack.backbones.families.anyflow._backbone:AnyFlowBackbone",
    transformers=("AnyFlowTransformer3DModel",),
    pipelines=("AnyFlowPipeline",),
    refuses=_refuses,
    checkpoints={
        "anyflow-1.3b": _anyflow("nvidia/AnyFlow-Wan2.1-T2V-1.3B-Diffusers", _13B, size=(81, 480, 832)),
        "anyflow-14b": _anyflow("nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers", NO_ARGUMENTS, size=(81, 480, 832)),
    },
)
"""The family, as it is registered."""
