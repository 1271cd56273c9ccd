"""Allegro: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline
from difftrack.backbones.families._encoders import T5

__all__ = ["FAMILY"]

_SCHEDULERS = ("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")
"""Schedulers that keep `x0 + sigma * noise` between steps."""


def _refuses(outline: PipelineOutline) -> str | None:
    scheduler = outline.components.get("scheduler", "")
    if scheduler not in _SCHEDULERS:
        return f"the levels of its scheduler {scheduler} are not known; set one of {', '.join(_SCHEDULERS)}"
    predicts = outline.configs.get("scheduler", {}).get("prediction_type", "epsilon")
    if predicts != "epsilon":
        return f"its scheduler predicts {predicts}; Allegro schedules are known for epsilon only"
    return None


FAMILY = BackboneFamily(
    name="allegro",
    backbone="difftrack.backbones.families.allegro._backbone:AllegroBackbone",
    transformers=("AllegroTransformer3DModel",),
    pipelines=("AllegroPipeline",),
    refuses=_refuses,
    checkpoints={
        "allegro": KnownBackbone(
            repository="rhymes-ai/Allegro",
            pipeline="AllegroPipeline",
            transformer=("AllegroTransformer3DModel", NO_ARGUMENTS),
            vae=("AutoencoderKLAllegro", NO_ARGUMENTS),
            scheduler=("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
            size=(88, 720, 1280),
            small={"num_layers": 3, "num_attention_heads": 2, "cross_attention_dim": 192, "caption_channels": 32},
            encoders=T5,
        ),
    },
)
"""The family, as it is registered."""
