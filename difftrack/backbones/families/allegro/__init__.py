"""Allegro: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone
from difftrack.backbones.families._encoders import T5

__all__ = ["FAMILY"]

FAMILY = BackboneFamily(
    name="allegro",
    backbone="difftrack.backbones.families.allegro._backbone:AllegroBackbone",
    transformers=("AllegroTransformer3DModel",),
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
