"""Kandinsky 5: classes and checkpoints."""

from difftrack.backbones._family import (
    NO_ARGUMENTS,
    Arguments,
    BackboneFamily,
    KnownBackbone,
    PipelineOutline,
    flow_levels,
)
from difftrack.backbones.families._encoders import CLIP_TEXT, QWEN_VL

__all__ = ["FAMILY"]

_LITE = {"model_dim": 1792, "ff_dim": 7168}
_PRO = {
    "model_dim": 4096,
    "ff_dim": 16384,
    "time_dim": 1024,
    "num_text_blocks": 4,
    "num_visual_blocks": 60,
    "axes_dims": (32, 48, 48),
}


def _kandinsky(repository: str, arguments: Arguments, *, small_width: int) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline="Kandinsky5T2VPipeline",
        transformer=(
            "Kandinsky5Transformer3DModel",
            {"in_visual_dim": 16, "out_visual_dim": 16, "visual_cond": True, **arguments},
        ),
        vae=("AutoencoderKLHunyuanVideo", NO_ARGUMENTS),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
        size=(121, 512, 768),
        small={
            "num_visual_blocks": 3,
            "num_text_blocks": 1,
            "model_dim": small_width,
            "ff_dim": 64,
            "time_dim": 16,
            "in_text_dim": 32,
            "in_text_dim2": 24,
        },
        encoders={**QWEN_VL, "text_encoder_2": CLIP_TEXT},
    )


def _refuses(outline: PipelineOutline) -> str | None:
    attention = outline.configs["transformer"].get("attention_type", "regular")
    if attention != "regular":
        return (
            f"its attention is of the type {attention}: sparse, in blocks of 64 tokens, in flex attention with its "
            "own order; only checkpoints of the type regular (those of 5 s) are supported"
        )
    return flow_levels(outline)


FAMILY = BackboneFamily(
    name="kandinsky5",
    backbone="difftrack.backbones.families.kandinsky5._backbone:Kandinsky5Backbone",
    transformers=("Kandinsky5Transformer3DModel",),
    pipelines=("Kandinsky5T2VPipeline",),
    refuses=_refuses,
    checkpoints={
        "kandinsky-5-lite": _kandinsky("kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers", _LITE, small_width=128),
        "kandinsky-5-pro": _kandinsky("kandinskylab/Kandinsky-5.0-T2V-Pro-sft-5s-Diffusers", _PRO, small_width=256),
    },
)
"""The family, as it is registered."""
