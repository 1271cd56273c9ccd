"""ConsisID: classes and checkpoints."""

from difftrack.backbones._family import NO_ARGUMENTS, BackboneFamily, KnownBackbone, PipelineOutline
from difftrack.backbones.families._encoders import T5
from difftrack.backbones.families.cogvideox import velocity_levels

__all__ = ["FAMILY"]


def _refuses(outline: PipelineOutline) -> str | None:
    config = outline.configs["transformer"]
    reads, denoised = config.get("in_channels", 16), config.get("out_channels") or 16
    if reads != 2 * denoised:
        return f"its transformer reads {reads} channels, but {outline.pipelines[0]} passes {2 * denoised}"
    return velocity_levels(outline)


FAMILY = BackboneFamily(
    name="consisid",
    backbone="difftrack.backbones.families.consisid._backbone:ConsisIDBackbone",
    transformers=("ConsisIDTransformer3DModel",),
    pipelines=("ConsisIDPipeline",),
    refuses=_refuses,
    checkpoints={
        "consisid": KnownBackbone(
            repository="BestWishYsh/ConsisID-preview",
            pipeline="ConsisIDPipeline",
            transformer=(
                "ConsisIDTransformer3DModel",
                {
                    "num_attention_heads": 48,
                    "num_layers": 42,
                    "in_channels": 32,
                    "use_rotary_positional_embeddings": True,
                    "use_learned_positional_embeddings": True,
                    "is_train_face": True,
                },
            ),
            vae=("AutoencoderKLCogVideoX", NO_ARGUMENTS),
            scheduler=(
                "CogVideoXDPMScheduler",
                {
                    "prediction_type": "v_prediction",
                    "rescale_betas_zero_snr": True,
                    "clip_sample": False,
                    "snr_shift_scale": 1.0,
                },
            ),
            size=(49, 480, 720),
            small={
                "num_layers": 4,  # even: the class counts one face attention for every two layers
                "num_attention_heads": 2,
                "text_embed_dim": 32,
                "sample_frames": 9,
                "sample_height": 6,
                "sample_width": 10,
                "cross_attn_num_heads": 2,
                "LFE_vit_dim": 24,
                "LFE_num_heads": 2,
                "LFE_output_dim": 85,  # two thirds of the transformer's 128 channels, as the class wants it
            },
            encoders=T5,
        ),
    },
)
"""The family, as it is registered."""
