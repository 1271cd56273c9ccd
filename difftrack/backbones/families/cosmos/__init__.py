"""Cosmos-Predict2 and 2.5: classes and checkpoints."""

from difftrack.backbones._family import Arguments, BackboneFamily, KnownBackbone, PipelineOutline, flow_levels
from difftrack.backbones.families._encoders import QWEN_VL, T5_11B

__all__ = ["FAMILY"]

_PREDICT = {
    "in_channels": 17,
    "text_embed_dim": 1024,
    "extra_pos_embed_type": None,
    "num_attention_heads": 16,
    "rope_scale": (1.0, 3.0, 3.0),
}
_14B = {**_PREDICT, "num_layers": 36, "num_attention_heads": 40}
_25 = {**_PREDICT, "use_crossattn_projection": True, "crossattn_proj_in_channels": 100352}
# Without the mask of the padding, which is blank in both pipelines and needs torchvision.
_SMALL = {"num_layers": 3, "num_attention_heads": 2, "adaln_lora_dim": 8, "concat_padding_mask": False}
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_karras_sigmas": True}


def _predict2(repository: str, arguments: Arguments) -> KnownBackbone:
    return KnownBackbone(
        repository=repository,
        pipeline="Cosmos2VideoToWorldPipeline",
        transformer=("CosmosTransformer3DModel", arguments),
        vae=("AutoencoderKLWan", {}),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
        size=(93, 704, 1280),
        small={**_SMALL, "text_embed_dim": 32},
        encoders=T5_11B,
    )


def _refuses(outline: PipelineOutline) -> str | None:
    scheduler = outline.components.get("scheduler", "")
    if "Cosmos2VideoToWorldPipeline" in outline.pipelines and scheduler != "FlowMatchEulerDiscreteScheduler":
        return f"the levels of its scheduler {scheduler} are not known; set FlowMatchEulerDiscreteScheduler"
    return flow_levels(outline)


FAMILY = BackboneFamily(
    name="cosmos",
    backbone="difftrack.backbones.families.cosmos._backbone:CosmosBackbone",
    transformers=("CosmosTransformer3DModel",),
    pipelines=("Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline"),
    refuses=_refuses,
    checkpoints={
        "cosmos-predict2-2b": _predict2("nvidia/Cosmos-Predict2-2B-Video2World", _PREDICT),
        "cosmos-predict2-14b": _predict2(
            "nvidia/Cosmos-Predict2-14B-Video2World", {**_14B, "rope_scale": (20 / 24, 2.0, 2.0)}
        ),
        "cosmos-predict2.5-2b": KnownBackbone(
            repository="nvidia/Cosmos-Predict2.5-2B",
            revision="diffusers/base/post-trained",
            pipeline="Cosmos2_5_PredictBasePipeline",
            transformer=("CosmosTransformer3DModel", _25),
            vae=("AutoencoderKLWan", {}),
            scheduler=("UniPCMultistepScheduler", {**_FLOW, "sigma_max": 200.0, "sigma_min": 0.01}),
            size=(93, 704, 1280),
            small={
                **_SMALL,
                "text_embed_dim": 32,
                "crossattn_proj_in_channels": 48,
                "encoder_hidden_states_channels": 32,
            },
            encoders=QWEN_VL,
        ),
    },
)
"""The family, as it is registered."""
