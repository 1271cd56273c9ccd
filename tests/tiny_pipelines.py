"""Tiny random-weight pipeline folders, one per family, saved and loaded like published ones. No two axes agree."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMagvit,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    ConsisIDPipeline,
    ConsisIDTransformer3DModel,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTransformer3DModel,
    DiffusionPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    EulerAncestralDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    ModelMixin,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from difftrack.backbones import CogVideoXEveryFramePipeline

torch.set_num_threads(1)  # with tensors this small, a second thread only waits

NUM_FRAMES, HEIGHT, WIDTH = 9, 40, 56
"""3 latent frames of 5 rows x 7 cols of tokens for CogVideoX."""

WORDS = ["a", "red", "blue", "disc", "square", "moves", "left", "right", "up", "quickly", "turns"]


def tokenizer() -> T5Tokenizer:
    letters = [(chr(code), -9.0) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=pieces + [(f"▁{word}", -3.0) for word in WORDS[1:]] + letters, extra_ids=0)


def text_encoder(vocab_size: int, *, width: int = 13) -> T5EncoderModel:
    config = T5Config(vocab_size=vocab_size, d_model=width, d_kv=5, d_ff=17, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


COGVIDEOX_TRANSFORMER = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 6,
    "out_channels": 6,
    "time_embed_dim": 10,
    "text_embed_dim": 13,
    "max_text_seq_length": 11,
    "sample_width": 14,
    "sample_height": 10,
    "sample_frames": NUM_FRAMES,
    "use_rotary_positional_embeddings": True,
}


def cogvideox_autoencoder() -> AutoencoderKLCogVideoX:
    """6 latent channels, 4x in space and time."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(4, 8, 8),
        latent_channels=6,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=HEIGHT,
        sample_width=WIDTH,
        scaling_factor=0.7,
    )


def ddim() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, snr_shift_scale=3.0
    )


def save_cogvideox(
    folder: Path, *, pipeline: type[DiffusionPipeline] = CogVideoXPipeline, **transformer_changes: object
) -> Path:
    """4 layers of 2 heads x 16 channels, 11 text tokens, 6 latent channels, 4x in space and time."""
    torch.manual_seed(0)
    words = tokenizer()
    pipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=cogvideox_autoencoder(),
        transformer=CogVideoXTransformer3DModel(**COGVIDEOX_TRANSFORMER | transformer_changes),
        scheduler=ddim(),
    ).save_pretrained(folder)
    return folder


def save_cogvideox_i2v(folder: Path, **transformer_changes: object) -> Path:
    """Reads 12 channels: 6 noisy ones and 6 of the image at the first latent frame."""
    return save_cogvideox(folder, pipeline=CogVideoXImageToVideoPipeline, in_channels=12, **transformer_changes)


def save_cogvideox_2b_i2v(folder: Path) -> Path:
    """No rotary positions, and the image at every latent frame."""
    return save_cogvideox(
        folder,
        pipeline=CogVideoXEveryFramePipeline,
        in_channels=12,
        use_rotary_positional_embeddings=False,
    )


def save_consisid(folder: Path) -> Path:
    """As CogVideoX from an image, with the features of a face after layers 0 and 2: 2 heads x 5 channels."""
    torch.manual_seed(0)
    words = tokenizer()
    ConsisIDPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=cogvideox_autoencoder(),
        transformer=ConsisIDTransformer3DModel(
            **COGVIDEOX_TRANSFORMER | {"in_channels": 12},
            is_train_face=True,
            cross_attn_dim_head=5,
            cross_attn_num_heads=2,
            LFE_id_dim=17,
            LFE_vit_dim=6,
            LFE_depth=3,
            LFE_dim_head=3,
            LFE_num_heads=2,
            LFE_num_id_token=2,
            LFE_num_querie=7,
            LFE_output_dim=21,
            LFE_ff_mult=2,
            LFE_num_scale=3,
        ),
        scheduler=ddim(),
    ).save_pretrained(folder)
    save_file({"id_cond": torch.randn(1, 17), "id_vit_hidden": torch.randn(3, 1, 5, 6)}, folder / "face.safetensors")
    return folder


def save_vace(folder: Path) -> Path:
    """As Wan, with a control clip after layers 0 and 2 that has 12 latent channels and a mask of 64."""
    torch.manual_seed(0)
    words = tokenizer()
    WanVACEPipeline(
        tokenizer=words,
        text_encoder=wan_text(words),
        vae=wan_autoencoder(),
        transformer=WanVACETransformer3DModel(**WAN_TRANSFORMER, vace_layers=[0, 2], vace_in_channels=76),
        scheduler=unipc(),
    ).save_pretrained(folder)
    return folder


def wan_autoencoder() -> AutoencoderKLWan:
    """6 latent channels, 8x in space, 4x in time."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=6,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1 * i for i in range(6)],
        latents_std=[1.0 + 0.1 * i for i in range(6)],
    )


def wan_text(words: T5Tokenizer) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=len(words), d_model=13, d_kv=5, d_ff=17, num_layers=1, num_heads=2))


WAN_TRANSFORMER = {
    "num_attention_heads": 7,
    "attention_head_dim": 12,
    "in_channels": 6,
    "out_channels": 6,
    "text_dim": 13,
    "freq_dim": 16,
    "ffn_dim": 19,
    "num_layers": 4,
}


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def save_wan(
    folder: Path,
    *,
    expand_timesteps: bool = False,
    boundary_ratio: float | None = None,
    pipeline: type[DiffusionPipeline] = WanPipeline,
    **transformer_changes: object,
) -> Path:
    """4 layers of 7 heads x 12 channels; two such transformers where there is a boundary."""
    torch.manual_seed(0)
    words = tokenizer()
    pipeline(
        tokenizer=words,
        text_encoder=wan_text(words),
        vae=wan_autoencoder(),
        transformer=WanTransformer3DModel(**WAN_TRANSFORMER | transformer_changes),
        transformer_2=WanTransformer3DModel(**WAN_TRANSFORMER | transformer_changes) if boundary_ratio else None,
        scheduler=unipc(),
        boundary_ratio=boundary_ratio,
        expand_timesteps=expand_timesteps,
    ).save_pretrained(folder)
    return folder


def save_wan_i2v(
    folder: Path,
    *,
    pipeline: type[DiffusionPipeline] = WanImageToVideoPipeline,
    transformer: type[ModelMixin] = WanTransformer3DModel,
) -> Path:
    """Reads 16 channels (6 noisy ones, 4 of a mask, 6 of the image) and 17 tokens of an image encoder."""
    torch.manual_seed(0)
    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=6, intermediate_size=11, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    side = {"height": 16, "width": 16}
    pipeline(
        tokenizer=words,
        text_encoder=wan_text(words),
        image_encoder=CLIPVisionModel(vision),
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side),
        vae=wan_autoencoder(),
        transformer=transformer(**{**WAN_TRANSFORMER, "in_channels": 16, "image_dim": 6, "added_kv_proj_dim": 84}),
        scheduler=unipc(),
    ).save_pretrained(folder)
    return folder


def save_skyreels(folder: Path, *, num_frame_per_block: int = 1) -> Path:
    """As Wan, with diffusion forcing and the frame rate as an input."""
    torch.manual_seed(0)
    words = tokenizer()
    SkyReelsV2DiffusionForcingPipeline(
        tokenizer=words,
        text_encoder=wan_text(words),
        vae=wan_autoencoder(),
        transformer=SkyReelsV2Transformer3DModel(
            **WAN_TRANSFORMER, inject_sample_info=True, num_frame_per_block=num_frame_per_block
        ),
        scheduler=unipc(),
    ).save_pretrained(folder)
    return folder


def save_ltx(folder: Path, *, pipeline: type[DiffusionPipeline] = LTXPipeline, dynamic_shift: bool = True) -> Path:
    """4 layers of 3 heads x 16 channels, 6 latent channels, 32x in space, 8x in time."""
    torch.manual_seed(0)
    words = tokenizer()
    pipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=AutoencoderKLLTXVideo(
            latent_channels=6,
            block_out_channels=(4, 4, 4, 4),
            decoder_block_out_channels=(4, 4, 4, 4),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        transformer=LTXVideoTransformer3DModel(
            in_channels=6,
            out_channels=6,
            num_attention_heads=3,
            attention_head_dim=16,
            cross_attention_dim=48,
            num_layers=4,
            caption_channels=13,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic_shift, base_image_seq_len=5),
    ).save_pretrained(folder)
    return folder


def save_mochi(folder: Path) -> Path:
    """4 layers of 3 heads x 10 channels, 12 latent channels, 8x in space, 6x in time."""
    torch.manual_seed(0)
    words = tokenizer()
    MochiPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words), width=16),
        vae=AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32),  # its normalisation is in 32 groups
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            add_attention_block=(False,) * 5,
        ),
        transformer=MochiTransformer3DModel(
            num_attention_heads=3,
            attention_head_dim=10,
            num_layers=4,
            pooled_projection_dim=15,
            text_embed_dim=16,
            time_embed_dim=6,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    ).save_pretrained(folder)
    return folder


def save_allegro(folder: Path) -> Path:
    """4 layers of 3 heads x 12 channels, 6 latent channels, 4x in space and time."""
    torch.manual_seed(0)
    words = tokenizer()
    AllegroPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=AutoencoderKLAllegro(
            down_block_types=("AllegroDownBlock3D",) * 3,
            up_block_types=("AllegroUpBlock3D",) * 3,
            block_out_channels=(4, 4, 4),
            temporal_downsample_blocks=(True, True, False),
            temporal_upsample_blocks=(False, True, True),
            latent_channels=6,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        transformer=AllegroTransformer3DModel(
            num_attention_heads=3,
            attention_head_dim=12,
            in_channels=6,
            out_channels=6,
            num_layers=4,
            cross_attention_dim=36,
            caption_channels=13,
            sample_height=10,
            sample_width=14,
            sample_frames=2,
        ),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
        ),
    ).save_pretrained(folder)
    return folder


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; unknown words share one token."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **names)


def clip_text(words: PreTrainedTokenizerFast) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=8,
            intermediate_size=11,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=2,
            eos_token_id=3,
        )
    )


def hunyuan_autoencoder() -> AutoencoderKLHunyuanVideo:
    """6 latent channels, 8x in space, 4x in time."""
    return AutoencoderKLHunyuanVideo(
        latent_channels=6, block_out_channels=(2, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )


def llama(words: PreTrainedTokenizerFast) -> LlamaModel:
    return LlamaModel(
        LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=17, num_hidden_layers=3, num_attention_heads=2
        )
    )


HUNYUAN_TRANSFORMER = {
    "in_channels": 6,
    "out_channels": 6,
    "num_attention_heads": 7,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 3,
    "num_refiner_layers": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}


def save_hunyuan(folder: Path) -> Path:
    """1 + 3 layers of 7 heads x 10 channels, 6 latent channels, 8x in space, 4x in time."""
    torch.manual_seed(0)
    words = word_tokenizer()
    HunyuanVideoPipeline(
        tokenizer=words,
        text_encoder=llama(words),
        tokenizer_2=words,
        text_encoder_2=clip_text(words),
        vae=hunyuan_autoencoder(),
        transformer=HunyuanVideoTransformer3DModel(**HUNYUAN_TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    ).save_pretrained(folder)
    return folder


def save_framepack(folder: Path) -> Path:
    """As HunyuanVideo, with an image of 4 tokens, and a history of 19 latent frames."""
    torch.manual_seed(0)
    words = word_tokenizer()
    vision = SiglipVisionConfig(
        hidden_size=6, intermediate_size=11, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    HunyuanVideoFramepackPipeline(
        tokenizer=words,
        text_encoder=llama(words),
        tokenizer_2=words,
        text_encoder_2=clip_text(words),
        image_encoder=SiglipVisionModel(vision),
        feature_extractor=SiglipImageProcessorPil(size={"height": 16, "width": 16}),
        vae=hunyuan_autoencoder(),
        transformer=HunyuanVideoFramepackTransformer3DModel(
            **HUNYUAN_TRANSFORMER, has_image_proj=True, image_proj_dim=6, has_clean_x_embedder=True
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    ).save_pretrained(folder)
    return folder


def save_hunyuan15(folder: Path) -> Path:
    """4 layers of 3 heads x 10 channels, 6 latent channels, 4x in space and time, no patches, text of two encoders."""
    torch.manual_seed(0)
    words = word_tokenizer()
    # 108 tokens of preamble, which the pipeline cuts off, then the prompt.
    words.chat_template = "{{ 'a ' * 108 }}{{ messages[1]['content'] }}"
    HunyuanVideo15Pipeline(
        tokenizer=words,
        text_encoder=Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**qwen_text(words))),
        tokenizer_2=ByT5Tokenizer(extra_ids=0),
        text_encoder_2=text_encoder(259),
        vae=AutoencoderKLHunyuanVideo15(
            latent_channels=6,
            block_out_channels=(24, 24, 24),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
        ),
        transformer=HunyuanVideo15Transformer3DModel(
            in_channels=13,
            out_channels=6,
            num_attention_heads=3,
            attention_head_dim=10,
            num_layers=4,
            num_refiner_layers=1,
            text_embed_dim=12,
            text_embed_2_dim=13,
            image_embed_dim=5,
            rope_axes_dim=(2, 4, 4),
            task_type="t2v",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    ).save_pretrained(folder)
    return folder


class Unguarded:
    """A stand-in for the guardrail of Cosmos, whose package and weights are not here; it lets everything through."""

    def to(self, *_: object) -> "Unguarded":
        return self

    def check_text_safety(self, _: str) -> bool:
        return True

    def check_video_safety(self, frames: object) -> object:
        return frames


COSMOS_TRANSFORMER = {
    "in_channels": 7,
    "out_channels": 6,
    "num_attention_heads": 3,
    "attention_head_dim": 12,
    "num_layers": 4,
    "text_embed_dim": 13,
    "adaln_lora_dim": 4,
    "max_size": (12, 24, 24),
    "rope_scale": (1.0, 3.0, 3.0),
    "concat_padding_mask": False,  # this class needs torchvision
    "extra_pos_embed_type": None,
}


def save_cosmos(folder: Path) -> Path:
    """4 layers of 3 heads x 12 channels, from an image."""
    torch.manual_seed(0)
    words = tokenizer()
    Cosmos2VideoToWorldPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=wan_autoencoder(),
        transformer=CosmosTransformer3DModel(**COSMOS_TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=Unguarded(),
    ).save_pretrained(folder)
    return folder


def qwen_text(words: PreTrainedTokenizerFast) -> dict[str, object]:
    """Arguments of a small language model of Qwen2.5-VL."""
    return {
        "vocab_size": len(words),
        "hidden_size": 12,
        "intermediate_size": 7,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]},
    }


def qwen_vl(words: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 7,
        "num_heads": 2,
        "out_hidden_size": 12,
        "patch_size": 2,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config=qwen_text(words), vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config)


def save_cosmos25(folder: Path) -> Path:
    """As Predict2, from text; a prompt is the hidden states of all 3 layers of a language model, concatenated."""
    torch.manual_seed(0)
    words = word_tokenizer()
    words.chat_template = "{{ messages[1]['content'][0]['text'] }}"
    Cosmos2_5_PredictBasePipeline(
        tokenizer=words,
        text_encoder=qwen_vl(words),
        vae=wan_autoencoder(),
        transformer=CosmosTransformer3DModel(
            **COSMOS_TRANSFORMER,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=36,
            encoder_hidden_states_channels=13,
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            use_karras_sigmas=True,
            sigma_max=200.0,
            sigma_min=0.01,
        ),
        safety_checker=Unguarded(),
    ).save_pretrained(folder)
    return folder


def save_kandinsky5(folder: Path, *, attention_type: str = "regular") -> Path:
    """4 layers of 3 heads x 10 channels, 6 latent channels, 8x in space, 4x in time, channels last."""
    torch.manual_seed(0)
    words = word_tokenizer()
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=6,
        out_visual_dim=6,
        in_text_dim=12,
        in_text_dim2=8,
        time_dim=7,
        model_dim=30,
        ff_dim=11,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=(2, 4, 4),
        visual_cond=True,
        attention_type=attention_type,
    )
    for name, weight in transformer.named_parameters():  # zeros before training would switch all layers off
        if "modulation" in name:
            torch.nn.init.normal_(weight, std=0.3)
    Kandinsky5T2VPipeline(
        tokenizer=words,
        text_encoder=qwen_vl(words),
        tokenizer_2=words,
        text_encoder_2=clip_text(words),
        vae=hunyuan_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    ).save_pretrained(folder)
    return folder


def gemma(words: PreTrainedTokenizerFast) -> Gemma3ForConditionalGeneration:
    """2 layers of 12 channels."""
    text = {
        "vocab_size": len(words),
        "hidden_size": 12,
        "intermediate_size": 7,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 8,
        "intermediate_size": 7,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 2,
        "image_size": 4,
    }
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def save_ltx2(folder: Path, **transformer_changes: object) -> Path:
    """4 layers of 3 heads x 16 channels, 6 latent channels, 32x in space, 8x in time, and 6 channels of sound."""
    torch.manual_seed(0)
    words = word_tokenizer()
    words.model_max_length = 1024
    per_modality = transformer_changes.get("use_prompt_embeddings") is False
    connector = {
        f"{stream}_connector_{key}": value
        for stream, heads in (("video", 4 if per_modality else 1), ("audio", 2 if per_modality else 1))
        for key, value in (
            ("num_attention_heads", heads),
            ("attention_head_dim", 12),
            ("num_layers", 1),
            ("num_learnable_registers", None),
        )
    }
    LTX2Pipeline(
        tokenizer=words,
        text_encoder=gemma(words),
        connectors=LTX2TextConnectors(
            caption_channels=12,
            text_proj_in_factor=3,
            connector_rope_base_seq_len=32,
            rope_type="split",
            per_modality_projections=per_modality,
            video_hidden_dim=48,
            audio_hidden_dim=24,
            **connector,
        ),
        vae=AutoencoderKLLTX2Video(
            latent_channels=6,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(4, 8, 16),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            upsample_residual=False,
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        ),
        audio_vae=AutoencoderKLLTX2Audio(
            base_channels=6, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=12
        ),
        vocoder=LTX2Vocoder(
            in_channels=24,
            hidden_channels=8,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
            output_sampling_rate=16000,
        ),
        transformer=LTX2VideoTransformer3DModel(
            in_channels=6,
            out_channels=6,
            num_attention_heads=3,
            attention_head_dim=16,
            cross_attention_dim=48,
            audio_in_channels=6,
            audio_out_channels=6,
            audio_num_attention_heads=3,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=24,
            num_layers=4,
            caption_channels=12,
            rope_type="split",
            **transformer_changes,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=5, shift_terminal=0.1
        ),
    ).save_pretrained(folder)
    return folder


def save_easyanimate(folder: Path) -> Path:
    """3 dual-stream layers and 1 of both streams, 3 heads x 16 channels, 6 latent channels, 8x in space, 4x in time."""
    torch.manual_seed(0)
    words = word_tokenizer()
    words.chat_template = "{{ messages[0]['content'][0]['text'] }}"
    vision = {"depth": 1, "embed_dim": 8, "hidden_size": 12, "num_heads": 2, "patch_size": 2, "mlp_ratio": 2}
    EasyAnimatePipeline(
        tokenizer=words,
        text_encoder=Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=qwen_text(words), vision_config=vision)),
        vae=AutoencoderKLMagvit(
            latent_channels=6,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
        ),
        transformer=EasyAnimateTransformer3DModel(
            in_channels=6,
            out_channels=6,
            patch_size=2,
            num_attention_heads=3,
            attention_head_dim=16,
            num_layers=4,
            mmdit_layers=3,
            time_embed_dim=10,
            text_embed_dim=12,
            add_norm_text_encoder=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    ).save_pretrained(folder)
    return folder


def save_anyflow(folder: Path) -> Path:
    """As Wan, with the target of each step as an input."""
    torch.manual_seed(0)
    words = tokenizer()
    AnyFlowPipeline(
        tokenizer=words,
        text_encoder=wan_text(words),
        vae=wan_autoencoder(),
        transformer=AnyFlowTransformer3DModel(**WAN_TRANSFORMER),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
    ).save_pretrained(folder)
    return folder


def save_chronoedit(folder: Path) -> Path:
    """As Wan 2.1 from an image."""
    return save_wan_i2v(folder, pipeline=ChronoEditPipeline, transformer=ChronoEditTransformer3DModel)


def save_motif(folder: Path) -> Path:
    """1 dual-stream layer, 3 single-stream ones, and a decoder of 2; 3 heads x 10 channels."""
    torch.manual_seed(0)
    words = tokenizer()
    MotifVideoPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=wan_autoencoder(),
        transformer=MotifVideoTransformer3DModel(
            in_channels=13,
            out_channels=6,
            num_attention_heads=3,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=5,
            num_decoder_layers=2,
            text_embed_dim=13,
            rope_axes_dim=(2, 4, 4),
            enable_text_cross_attention_dual=True,
            enable_text_cross_attention_single=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    ).save_pretrained(folder)
    return folder


def save_kandinsky6(folder: Path) -> Path:
    """As Kandinsky 5, with sound that is left out."""
    torch.manual_seed(0)
    words = word_tokenizer()
    transformer = Kandinsky6Transformer3DModel(
        in_visual_dim=6,
        out_visual_dim=6,
        in_text_dim=12,
        in_text_dim2=8,
        time_dim=7,
        model_dim=30,
        ff_dim=11,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=(2, 4, 4),
        in_audio_dim=3,
        out_audio_dim=3,
    )
    for name, weight in transformer.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(weight, std=0.3)
    Kandinsky6TI2VAPipeline(
        tokenizer=words,
        text_encoder=qwen_vl(words),
        tokenizer_2=words,
        text_encoder_2=clip_text(words),
        vae=hunyuan_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    ).save_pretrained(folder)
    return folder


def save_helios(folder: Path) -> Path:
    """As Wan, with a history of 19 latent frames in front of the clip."""
    torch.manual_seed(0)
    words = tokenizer()
    HeliosPipeline(
        tokenizer=words,
        text_encoder=wan_text(words),
        vae=wan_autoencoder(),
        transformer=HeliosTransformer3DModel(**WAN_TRANSFORMER, rope_dim=(4, 4, 4), is_amplify_history=True),
        scheduler=HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True),
    ).save_pretrained(folder)
    return folder


LTX23 = {
    "gated_attn": True,
    "cross_attn_mod": True,
    "audio_gated_attn": True,
    "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}

ROWS: dict[str, Callable[[Path], Path]] = {
    "cogvideox-2b": partial(save_cogvideox, use_rotary_positional_embeddings=False),
    "cogvideox-5b": save_cogvideox,
    "cogvideox-1.5-5b": partial(save_cogvideox, patch_size_t=2, patch_bias=False),
    "cogvideox-2b-i2v": save_cogvideox_2b_i2v,
    "cogvideox-5b-i2v": partial(save_cogvideox_i2v, use_learned_positional_embeddings=True),
    "cogvideox-1.5-5b-i2v": partial(save_cogvideox_i2v, patch_size_t=2, patch_bias=False, ofs_embed_dim=10),
    "hunyuan-video": save_hunyuan,
    "hunyuan-video-1.5": save_hunyuan15,
    "wan2.1-1.3b": save_wan,
    "wan2.1-14b": partial(save_wan, num_attention_heads=5),
    "wan2.1-i2v-14b": save_wan_i2v,
    "wan2.2-ti2v-5b": partial(save_wan, expand_timesteps=True),
    "wan2.2-t2v-a14b": partial(save_wan, boundary_ratio=0.875),
    "wan2.2-i2v-a14b": partial(save_wan, boundary_ratio=0.9, pipeline=WanImageToVideoPipeline, in_channels=16),
    "ltx-2b": save_ltx,
    "ltx-13b": partial(save_ltx, pipeline=LTXConditionPipeline, dynamic_shift=False),
    "mochi-1": save_mochi,
    "allegro": save_allegro,
    "skyreels-v2-1.3b": save_skyreels,
    "cosmos-predict2-2b": save_cosmos,
    "cosmos-predict2-14b": save_cosmos,
    "cosmos-predict2.5-2b": save_cosmos25,
    "kandinsky-5-lite": save_kandinsky5,
    "kandinsky-5-pro": save_kandinsky5,
    "ltx-2": save_ltx2,
    "easyanimate-5.1-12b": save_easyanimate,
    "anyflow-1.3b": save_anyflow,
    "anyflow-14b": save_anyflow,
    "chronoedit-14b": save_chronoedit,
    "motif-video-2b": save_motif,
    "kandinsky-6-pro": save_kandinsky6,
    "skyreels-v2-14b": save_skyreels,
    "ltx-2.3": partial(save_ltx2, **LTX23),
    "ltx-2.5": partial(save_ltx2, **LTX23, ff_bias=False, use_keyframes_abs_pos_embedding=True),
    "consisid": save_consisid,
    "wan2.1-vace-1.3b": save_vace,
    "wan2.1-vace-14b": save_vace,
    "framepack-i2v": save_framepack,
    "helios-base": save_helios,
}
"""A small folder for each name in the table of backbones: its own classes, random weights."""

VARIANTS: dict[str, Callable[[Path], Path]] = {
    "wan2.2-ti2v-5b from an image": partial(save_wan, expand_timesteps=True, pipeline=WanImageToVideoPipeline),
    "skyreels-v2 in causal blocks": partial(save_skyreels, num_frame_per_block=2),
    "cosmos-predict2.5 from an image": save_cosmos25,
    "wan2.1-vace from an image": save_vace,
}
"""Further settings of the same classes."""

SIZES = {
    "cogvideox-5b-i2v": (9, 40, 56),
    "cogvideox": (9, 24, 40),
    "consisid": (9, 24, 40),
    "hunyuan-video-1.5": (5, 12, 20),
    "hunyuan-video": (5, 48, 80),
    "wan": (5, 48, 80),
    "ltx": (9, 96, 160),
    "mochi": (7, 48, 80),
    "allegro": (8, 24, 40),
    "skyreels": (5, 48, 80),
    "cosmos": (5, 48, 80),
    "kandinsky": (5, 48, 80),
    "easyanimate": (5, 48, 80),
    "anyflow": (5, 48, 80),
    "chronoedit": (5, 48, 80),
    "motif": (5, 48, 80),
    "framepack": (5, 48, 80),
    "helios": (5, 48, 80),
}


def clip_size(name: str) -> tuple[int, int, int]:
    """(frames, height, width) of a clip that gives 2 or 3 token frames of 3 rows x 5 cols (5 x 7 if learned)."""
    return next(size for family, size in SIZES.items() if name.startswith(family))


REPEATED = (
    "cogvideox-2b",
    "wan2.1-14b",
    "cosmos-predict2-14b",
    "kandinsky-5-pro",
    "ltx-2.5",
    "anyflow-14b",
    "skyreels-v2-14b",
    "wan2.1-vace-14b",
)
"""Rows that differ from their neighbours in numbers only; `make test-long` runs them."""
