"""Mochi 1: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline, flow_levels
from difftrack.backbones.families._encoders import T5

__all__ = ["FAMILY"]


def _refuses(outline: PipelineOutline) -> str | None:
    kind, config = outline.components.get("scheduler", ""), outline.configs.get("scheduler", {})
    if kind not in _SCHEDULERS or not config.get("invert_sigmas", False):
        return (
            f"its scheduler {kind} does not run its time from noise to data; set one of {', '.join(_SCHEDULERS)} "
            "with invert_sigmas=True"
        )
    return flow_levels(outline)


_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler")
"""Those that can invert their levels, as Mochi's transformer reads them."""

FAMILY = BackboneFamily(
    name="mochi",
    backbone="difftrack.backbones.families.mochi._backbone:MochiBackbone",
    transformers=("MochiTransformer3DModel",),
    pipelines=("MochiPipeline",),
    refuses=_refuses,
    checkpoints={
        "mochi-1": KnownBackbone(
            repository="genmo/mochi-1-preview",
            pipeline="MochiPipeline",
            transformer=("MochiTransformer3DModel", NO_ARGUMENTS),
            vae=("AutoencoderKLMochi", NO_ARGUMENTS),
            scheduler=("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
            size=(163, 480, 848),
            small={
                "num_layers": 3,
                "num_attention_heads": 2,
                "pooled_projection_dim": 32,
                "text_embed_dim": 32,
                "time_embed_dim": 16,
            },
            encoders=T5,
        ),
    },
)
"""The family, as it is registered."""
