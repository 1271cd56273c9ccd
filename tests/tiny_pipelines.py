"""Tiny random-weight pipeline folders, one per family, saved and loaded like published ones. No axis equals another."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

NUM_FRAMES, HEIGHT, WIDTH = 9, 40, 56
"""3 latent frames of 5 rows x 7 cols of tokens for CogVideoX."""

WORDS = ["a", "red", "blue", "disc", "square", "moves", "left", "right", "up", "quickly", "turns"]


def tokenizer() -> T5Tokenizer:
    letters = [(chr(code), -9.0) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=pieces + [(f"▁{word}", -3.0) for word in WORDS[1:]] + letters, extra_ids=0)


def text_encoder(vocab_size: int) -> T5EncoderModel:
    config = T5Config(vocab_size=vocab_size, d_model=13, d_kv=5, d_ff=17, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def save_cogvideox(folder: Path, **transformer_changes: object) -> Path:
    """4 layers of 2 heads x 16 channels, 11 text tokens, 6 latent channels, 4x in space and time."""
    torch.manual_seed(0)
    words = tokenizer()
    settings = {
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
    CogVideoXPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        vae=AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(4, 8, 8),
            latent_channels=6,
            layers_per_block=1,
            norm_num_groups=2,
            sample_height=HEIGHT,
            sample_width=WIDTH,
            scaling_factor=0.7,
        ),
        transformer=CogVideoXTransformer3DModel(**{**settings, **transformer_changes}),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, snr_shift_scale=3.0
        ),
    ).save_pretrained(folder)
    return folder


def save_wan(folder: Path, *, expand_timesteps: bool = False) -> Path:
    """4 layers of 7 heads x 12 channels, 6 latent channels, 8x in space, 4x in time."""
    torch.manual_seed(0)
    words = tokenizer()
    text = UMT5Config(vocab_size=len(words), d_model=13, d_kv=5, d_ff=17, num_layers=1, num_heads=2)
    WanPipeline(
        tokenizer=words,
        text_encoder=UMT5EncoderModel(text),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=6,
            dim_mult=[1, 1, 2, 2],
            num_res_blocks=1,
            latents_mean=[0.1 * i for i in range(6)],
            latents_std=[1.0 + 0.1 * i for i in range(6)],
        ),
        transformer=WanTransformer3DModel(
            num_attention_heads=7,
            attention_head_dim=12,
            in_channels=6,
            out_channels=6,
            text_dim=13,
            freq_dim=16,
            ffn_dim=19,
            num_layers=4,
        ),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        expand_timesteps=expand_timesteps,
    ).save_pretrained(folder)
    return folder


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; unknown words are all the same one."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **names)


def save_hunyuan(folder: Path) -> Path:
    """1 + 3 layers of 7 heads x 10 channels, 6 latent channels, 8x in space, 4x in time."""
    torch.manual_seed(0)
    words = word_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=17, num_hidden_layers=3, num_attention_heads=2
    )
    clip = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=11,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=2,
        eos_token_id=3,
    )
    HunyuanVideoPipeline(
        tokenizer=words,
        text_encoder=LlamaModel(llama),
        tokenizer_2=words,
        text_encoder_2=CLIPTextModel(clip),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=6, block_out_channels=(2, 4, 4, 4), layers_per_block=1, norm_num_groups=2
        ),
        transformer=HunyuanVideoTransformer3DModel(
            in_channels=6,
            out_channels=6,
            num_attention_heads=7,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=3,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    ).save_pretrained(folder)
    return folder
