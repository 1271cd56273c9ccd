"""Tiny random-weight pipeline folders, one per family, saved and loaded like published ones. No axis equals another."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

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
