"""CogVideoX 1.0 and 1.5: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, Arguments, BackboneFamily, KnownBackbone, PipelineOutline
from difftrack.backbones._params import ImageCondition
from difftrack.backbones.families._encoders import T5

__all__ = ["FAMILY", "velocity_levels"]

_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_15 = _5B | {"patch_size_t": 2, "patch_bias": False, "sample_frames": 81}
_FROM_IMAGE = {"in_channels": 32}


def _cogvideox(
    repository: str,
    arguments: Arguments,
    *,
    alias: str | None = None,
    size: tuple[int, int, int] = (49, 480, 720),
    snr_shift_scale: float = 1.0,
    image_condition: ImageCondition = "checkpoint",
) -> KnownBackbone:
    scheduler = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False}
    return KnownBackbone(
        repository=repository,
        aliases=() if alias is None else (alias,),
        pipeline="CogVideoXImageToVideoPipeline" if "in_channels" in arguments else "CogVideoXPipeline",
        transformer=("CogVideoXTransformer3DModel", arguments),
        vae=("AutoencoderKLCogVideoX", NO_ARGUMENTS),
        scheduler=("CogVideoXDDIMScheduler", scheduler | {"snr_shift_scale": snr_shift_scale}),
        size=size,
        small={
            "num_layers": 3,
            "num_attention_heads": 2,
            "text_embed_dim": 32,
            "sample_frames": 9,
            "sample_height": 6,
            "sample_width": 10,
        },
        encoders=T5,
        image_condition=image_condition,
    )


_FROM_IMAGE_PIPELINE = "CogVideoXImageToVideoPipeline"
_SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler")
"""Supported schedulers: they keep a table of signal power and go down it with a fixed stride."""


def velocity_levels(outline: PipelineOutline) -> str | None:
    """Say why a scheduler's levels are not those that CogVideoX was trained on; None where they are."""
    scheduler = outline.components.get("scheduler", "")
    if scheduler not in _SCHEDULERS:
        return (
            f"the levels of its scheduler {scheduler} are not known; set one of {', '.join(_SCHEDULERS)}: "
            "pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config)"
        )
    predicts = outline.configs.get("scheduler", {}).get("prediction_type", "epsilon")
    if predicts != "v_prediction":
        return f"its scheduler predicts {predicts}; CogVideoX schedules are known for v_prediction only"
    return None


def _refuses(outline: PipelineOutline) -> str | None:
    config = outline.configs["transformer"]
    reads, denoised = config.get("in_channels", 16), config.get("out_channels") or 16
    wanted = 2 * denoised if _FROM_IMAGE_PIPELINE in outline.pipelines else denoised
    if reads != wanted:
        return f"its transformer reads {reads} channels, but {outline.pipelines[0]} passes {wanted}"
    return velocity_levels(outline)


FAMILY = BackboneFamily(
    name="cogvideox",
    backbone="difftrack.backbones.families.cogvideox._backbone:CogVideoXBackbone",
    transformers=("CogVideoXTransformer3DModel",),
    pipelines=("CogVideoXPipeline", _FROM_IMAGE_PIPELINE),
    refuses=_refuses,
    checkpoints={
        "cogvideox-2b": _cogvideox("zai-org/CogVideoX-2b", NO_ARGUMENTS, alias="cogvideox_t2v_2b", snr_shift_scale=3.0),
        "cogvideox-5b": _cogvideox("zai-org/CogVideoX-5b", _5B, alias="cogvideox_t2v_5b"),
        "cogvideox-1.5-5b": _cogvideox("zai-org/CogVideoX1.5-5B", _15, size=(81, 768, 1360)),
        "cogvideox-2b-i2v": _cogvideox(
            "NimVideo/cogvideox-2b-img2vid",
            _FROM_IMAGE,
            alias="cogvideox_i2v_2b",
            snr_shift_scale=3.0,
            image_condition="every_frame",
        ),
        "cogvideox-5b-i2v": _cogvideox(
            "zai-org/CogVideoX-5b-I2V",
            _5B | _FROM_IMAGE | {"use_learned_positional_embeddings": True},
            alias="cogvideox_i2v_5b",
        ),
        "cogvideox-1.5-5b-i2v": _cogvideox(
            "zai-org/CogVideoX1.5-5B-I2V", _15 | _FROM_IMAGE | {"ofs_embed_dim": 512}, size=(81, 768, 1360)
        ),
    },
)
"""The family, as it is registered."""
