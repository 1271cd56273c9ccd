"""Helios: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline, flow_levels
from difftrack.backbones.families._encoders import UMT5

__all__ = ["FAMILY"]


def _refuses(outline: PipelineOutline) -> str | None:
    if not outline.configs["transformer"].get("has_multi_term_memory_patch", True):
        return "its transformer has no patches for history (has_multi_term_memory_patch), which the pipeline gives it"
    scheduler = outline.configs.get("scheduler", {})
    if outline.components.get("scheduler") != "HeliosScheduler":
        return flow_levels(outline)
    if scheduler.get("stages", 3) != 1 or scheduler.get("scheduler_type", "unipc") == "dmd":
        return (
            "its scheduler goes through stages of growing size, or is distilled (stages, scheduler_type); only "
            "sampling at one size is captured"
        )
    return None


FAMILY = BackboneFamily(
    name="helios",
    backbone="difftrack.backbones.families.helios._backbone:HeliosBackbone",
    transformers=("HeliosTransformer3DModel",),
    pipelines=("HeliosPipeline",),
    refuses=_refuses,
    checkpoints={
        "helios-base": KnownBackbone(
            repository="BestWishYsh/Helios-Base",
            pipeline="HeliosPipeline",
            transformer=("HeliosTransformer3DModel", NO_ARGUMENTS),
            vae=("AutoencoderKLWan", NO_ARGUMENTS),
            scheduler=("HeliosScheduler", {"stages": 1, "stage_range": [0, 1], "use_dynamic_shifting": True}),
            size=(33, 384, 640),
            small={
                "num_layers": 3,
                "num_attention_heads": 2,
                "ffn_dim": 64,
                "text_dim": 32,
                "freq_dim": 16,
            },
            encoders=UMT5,
        ),
    },
)
"""The family, as it is registered."""
